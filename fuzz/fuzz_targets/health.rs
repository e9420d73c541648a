//! The decoder of health bodies: no panic, limits held, and the same meaning
//! as the rules told plainly over serde_json.

#![no_main]

#[path = "../../schema/tests/oracle/mod.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|body: &[u8]| oracle::check(body));
