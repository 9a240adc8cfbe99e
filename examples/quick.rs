use tauten::device::gpu::{Adapter, Checks};
fn main() {
    let f = std::env::args().nth(1).unwrap_or_default();
    let n = Adapter::all().len();
    for i in 0..n {
        let mut worst = 0f32;
        for case in tauten::ops::check::cases().into_iter().filter(|c| c.name.contains(&f)) {
            let a = Adapter::all().swap_remove(i);
            let name = a.describe();
            let cpu = case.on_cpu().unwrap();
            let gpu = case.on_gpu(a, Checks::Injected).unwrap_or_else(|e| panic!("{name}: {e}"));
            match case.compare(&cpu, &gpu) {
                Ok(e) => worst = worst.max(e),
                Err(e) => println!("{name}: {e}"),
            }
        }
        println!("{}: worst {worst}", Adapter::all()[i].describe());
    }
}
