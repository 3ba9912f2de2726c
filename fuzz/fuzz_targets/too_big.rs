#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_gateway::datapath::fuzz::too_big(data));
