//! Migrations are embedded by a macro; cargo must know that they are input.

fn main() {
    println!("cargo:rerun-if-changed=postgres");
}
