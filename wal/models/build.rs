//! The log is compiled for models.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(models)");
    println!("cargo::rustc-cfg=models");
}
