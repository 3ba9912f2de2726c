#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| strait_gateway::wireguard::fuzz::uapi(data));
