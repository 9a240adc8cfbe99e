//! Which adapters the tests of shaders run on.

mod common;

use std::cell::Cell;
use std::io::Write;

/// Says which adapters there are, past the test runner's capture, and fails if a driver that was named gives none.
#[test]
fn every_driver_that_was_named_gives_an_adapter() {
    let named = std::env::var_os("VK_DRIVER_FILES").map_or(0, |files| std::env::split_paths(&files).count());
    let found = Cell::new(None);
    common::for_each_adapter(|name, open| {
        found.set(Some(found.get().unwrap_or(0) + 1));
        // A closed standard error is no reason to fail.
        let _ = writeln!(std::io::stderr().lock(), "adapter under test: {name} ({})", open().kind());
    });
    // None: no adapter is expected.
    if let Some(found) = found.get() {
        assert!(found >= named, "VK_DRIVER_FILES names {named} drivers, but there are {found} adapters");
    }
}
