//! What tests of shaders share.

use tauten::device::gpu::Adapter;

/// Calls `test` with the name of each adapter there is and a way to take it. Without any it fails, unless TAUTEN_NO_GPU=1 says that
/// none is expected.
pub fn for_each_adapter(test: impl Fn(&str, &dyn Fn() -> Adapter)) {
    if std::env::var_os("TAUTEN_NO_GPU").is_some_and(|v| v == "1") {
        println!("skipped: TAUTEN_NO_GPU=1 is set");
        return;
    }
    let adapters = Adapter::all();
    assert!(
        !adapters.is_empty(),
        "there is no adapter to test the shaders on; install a driver (a software one will do) or set TAUTEN_NO_GPU=1"
    );
    for adapter in &adapters {
        println!("{}", adapter.describe());
        test(&adapter.describe(), &|| adapter.clone());
    }
}
