//! The decoder of frames: no panic, nothing inflates past its limit, and what
//! is read is written and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_schema::frame::{Frame, FrameBuilder, MAX_INFLATED_BYTES, mark_replay, read_header};
use sluice_schema::id::FrameId;
use uuid::Uuid;

const ID: FrameId = FrameId(Uuid::nil());

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&stored(bytes));
});

/// `body` as the body of a frame whose header is right, but for the number of
/// requests, which the first byte tells.
fn stored(body: &[u8]) -> Vec<u8> {
    let requests = u32::from(body.first().copied().unwrap_or_default());
    let body = body.get(1..).unwrap_or_default();
    let mut frame = FrameBuilder::new().finish(ID).to_vec();
    frame[1] = 0;
    frame[20..24].copy_from_slice(&(body.len() as u32).to_le_bytes());
    frame[24..28].copy_from_slice(&requests.to_le_bytes());
    frame.truncate(32);
    frame.extend_from_slice(body);
    frame
}

fn check(bytes: &[u8]) {
    let header = read_header(bytes);
    assert_eq!(mark_replay(bytes).is_ok(), header.is_ok());
    let Ok(frame) = Frame::decode(bytes) else {
        return;
    };
    assert_eq!(Ok(frame.header), header);
    assert!(frame.header.raw_bytes as usize <= MAX_INFLATED_BYTES);
    let Ok(requests) = frame.requests() else {
        return;
    };
    assert_eq!(requests.len(), frame.header.requests as usize);
    let mut builder = FrameBuilder::new();
    for request in &requests {
        builder.push(request, 1);
    }
    let again = Frame::decode(&builder.finish(ID)).expect("a frame that was just built");
    assert_eq!(again.requests().as_ref(), Ok(&requests));
    let replay = mark_replay(bytes).and_then(|replay| Frame::decode(&replay));
    assert_eq!(replay.map(|replay| replay.header.replay), Ok(true));
}
