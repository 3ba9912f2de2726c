#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_lighthouse_dns::dns::fuzz::dns_message(data));
