#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_lab::fuzz::lab_dns(data));
