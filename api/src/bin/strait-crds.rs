//! Writes the custom resource definitions of Strait as YAML.
fn main() {}
