//! What tests run engines under: their own executables cannot.

fn main() {
    sluice_engines::run_child_if_asked();
    eprintln!("this program is started by tests, to run an engine");
}
