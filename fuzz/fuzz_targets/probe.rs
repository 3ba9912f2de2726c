#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_daemon::fuzz::probe(data));
