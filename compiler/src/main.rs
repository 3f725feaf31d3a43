//! aic
fn main() {}
