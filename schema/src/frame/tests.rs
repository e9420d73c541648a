use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Owned {
    project: Result<i64, String>,
    received_at_us: i64,
    kind: ContentKind,
    payload: Vec<u8>,
}

impl Owned {
    fn as_request(&self) -> Request<'_> {
        let project = match &self.project {
            Ok(id) => ProjectRef::Id(ProjectId(*id)),
            Err(slug) => ProjectRef::Slug(slug),
        };
        Request {
            project,
            received_at_us: self.received_at_us,
            kind: self.kind,
            payload: &self.payload,
        }
    }
}

fn any_request() -> impl Strategy<Value = Owned> {
    let project = prop_oneof![any::<i64>().prop_map(Ok), "[a-zé-]{0,40}".prop_map(Err)];
    let kind = prop_oneof![
        Just(ContentKind::Health),
        Just(ContentKind::Evaluations),
        Just(ContentKind::Manifests),
    ];
    (
        project,
        any::<i64>(),
        kind,
        proptest::collection::vec(any::<u8>(), 0..200),
    )
        .prop_map(|(project, received_at_us, kind, payload)| Owned {
            project,
            received_at_us,
            kind,
            payload,
        })
}

proptest! {
    #[test]
    fn what_is_pushed_is_read(requests in proptest::collection::vec(any_request(), 0..40)) {
        let mut builder = FrameBuilder::new();
        for request in &requests {
            builder.push(&request.as_request(), 2);
        }
        let id = FrameId::new();
        let bytes = builder.finish(id);
        prop_assert!(builder.is_empty());
        let frame = Frame::decode(&bytes).unwrap();
        prop_assert_eq!(frame.header.id, id);
        prop_assert_eq!(frame.header.events as usize, 2 * requests.len());
        let read = frame.requests().unwrap();
        let sent: Vec<_> = requests.iter().map(Owned::as_request).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn rubbish_is_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            let _ = frame.requests();
        }
    }

    #[test]
    fn a_flipped_or_lost_byte_never_panics(
        request in any_request(), at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>(),
    ) {
        let mut builder = FrameBuilder::new();
        builder.push(&request.as_request(), 1);
        let mut bytes = builder.finish(FrameId::new()).to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at); } else { bytes[at] ^= 1 << bit; }
        if let Ok(frame) = Frame::decode(&bytes) {
            let _ = frame.requests();
        }
    }
}

#[test]
fn a_frame_closes_at_its_limits() {
    let mut many = FrameSize::default();
    assert!((0..MAX_FRAME_REQUESTS).all(|_| many.add(2, 1)));
    assert!(!many.add(2, 1), "requests");
    let mut events = FrameSize::default();
    assert!(events.add(2, MAX_FRAME_EVENTS));
    assert!(events.add(2, 0) && !events.add(2, 1), "events");
    let mut bytes = FrameSize::default();
    assert!(bytes.add(MAX_FRAME_BYTES, 1));
    assert!(bytes.add(0, 0) && !bytes.add(1, 0), "bytes");
    let mut alone = FrameSize::default();
    assert!(
        alone.add(4 * MAX_FRAME_BYTES, 1_000),
        "an empty frame takes any request"
    );
    assert!(!alone.add(0, 0));
}

#[test]
fn a_replay_differs_in_its_mark_only() {
    let mut builder = FrameBuilder::new();
    let id = FrameId::new();
    let bytes = builder.finish(id);
    let replay = mark_replay(&bytes).unwrap();
    let header = read_header(&replay).unwrap();
    assert!(header.replay && !read_header(&bytes).unwrap().replay);
    assert_eq!(header.id, id);
}

#[test]
fn a_bomb_is_refused_before_it_inflates() {
    let mut bytes = FrameBuilder::new().finish(FrameId::new()).to_vec();
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read_header(&bytes), Err(FrameError::TooLarge(u32::MAX)));
}
