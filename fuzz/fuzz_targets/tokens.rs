#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wallcrawler_fuzz::tokens::check(data));
