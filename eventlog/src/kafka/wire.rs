//! The one Kafka request that we make ourselves: what is this topic's id?
//!
//! A topic's id is the only thing that changes when a topic is created anew,
//! and the client library does not tell it (docs/decisions/0022). This asks
//! with Metadata, version 12, and reads no further than it must.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(2);
const METADATA: i16 = 3;
const VERSION: i16 = 12;
/// Metadata of a large cluster is a few hundred kilobytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

const NO_ERROR: i16 = 0;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

/// What a broker says of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// Given when the topic was created.
    pub(crate) id: Uuid,
    /// Number of its partitions.
    pub(crate) partitions: u32,
}

/// Asks the brokers, one after the other, until one answers. `None`: there is no such topic.
pub(crate) fn describe(brokers: &str, topic: &str) -> io::Result<Option<Topic>> {
    let mut failed = io::Error::new(ErrorKind::InvalidInput, "no brokers are given");
    for broker in brokers.split(',') {
        match ask(broker.trim(), topic) {
            Ok(answer) => return Ok(answer),
            Err(error) => failed = io::Error::new(error.kind(), format!("{broker}: {error}")),
        }
    }
    Err(failed)
}

fn ask(broker: &str, topic: &str) -> io::Result<Option<Topic>> {
    let mut stream = connect(broker)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&request(topic))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_ANSWER_BYTES {
        return Err(malformed());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    read_answer(&answer)
}

fn connect(broker: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "no address");
    for address in broker.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A request for one topic by name, which does not create it.
fn request(topic: &str) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend_from_slice(&METADATA.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    // Correlation id, no client id, no tags; then an array of one: no id, but a name.
    out.extend_from_slice(&[0, 0, 0, 0, 0xff, 0xff, 0, 2]);
    out.extend_from_slice(&[0; 16]);
    put_varint(&mut out, topic.len() as u32 + 1);
    out.extend_from_slice(topic.as_bytes());
    // No tags of the topic; do not create it; no authorized operations; no tags.
    out.extend_from_slice(&[0, 0, 0, 0]);
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_answer(answer: &[u8]) -> io::Result<Option<Topic>> {
    let mut rest = answer;
    take::<4>(&mut rest)?; // correlation id
    skip_tags(&mut rest)?;
    take::<4>(&mut rest)?; // throttle time
    for _ in 0..array_length(&mut rest)? {
        take::<4>(&mut rest)?; // broker id
        skip_string(&mut rest)?; // host
        take::<4>(&mut rest)?; // port
        skip_string(&mut rest)?; // rack
        skip_tags(&mut rest)?;
    }
    skip_string(&mut rest)?; // cluster id
    take::<4>(&mut rest)?; // controller id
    if array_length(&mut rest)? == 0 {
        return Ok(None);
    }
    let code = i16::from_be_bytes(take(&mut rest)?);
    skip_string(&mut rest)?; // name
    let id = Uuid::from_bytes(take(&mut rest)?);
    take::<1>(&mut rest)?; // internal
    let partitions = array_length(&mut rest)?;
    match code {
        NO_ERROR if id.is_nil() => Err(io::Error::other("the broker gives no topic ids")),
        NO_ERROR => Ok(Some(Topic { id, partitions })),
        UNKNOWN_TOPIC_OR_PARTITION => Ok(None),
        code => Err(io::Error::other(format!("error {code} of the topic"))),
    }
}

fn malformed() -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        "this is no answer of a Kafka broker",
    )
}

fn take<const N: usize>(rest: &mut &[u8]) -> io::Result<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or_else(malformed)?;
    *rest = tail;
    Ok(*head)
}

fn varint(rest: &mut &[u8]) -> io::Result<u32> {
    let mut value = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let [byte] = take::<1>(rest)?;
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(malformed())
}

/// Lengths are sent plus one; 0 is null.
fn array_length(rest: &mut &[u8]) -> io::Result<u32> {
    Ok(varint(rest)?.saturating_sub(1))
}

fn skip(rest: &mut &[u8], bytes: u32) -> io::Result<()> {
    *rest = rest.get(bytes as usize..).ok_or_else(malformed)?;
    Ok(())
}

fn skip_string(rest: &mut &[u8]) -> io::Result<()> {
    let length = array_length(rest)?;
    skip(rest, length)
}

fn skip_tags(rest: &mut &[u8]) -> io::Result<()> {
    for _ in 0..varint(rest)? {
        varint(rest)?;
        let length = varint(rest)?;
        skip(rest, length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(code: i16, id: u128, partitions: u8) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        out.extend_from_slice(&[0, 0, 0, 1, 2, b'h', 0, 0, 35, 132, 0, 0]);
        out.extend_from_slice(&[3, b'c', b'l', 0, 0, 0, 1, 2]);
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(&[2, b't']);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&[0, partitions + 1]);
        out
    }

    #[test]
    fn an_answer_holds_the_id_and_the_partitions() {
        let topic = read_answer(&answer(0, 77, 12)).unwrap().unwrap();
        assert_eq!((topic.id.as_u128(), topic.partitions), (77, 12));
        assert_eq!(read_answer(&answer(3, 0, 0)).unwrap(), None);
        assert!(read_answer(&answer(5, 0, 0)).is_err(), "no leader yet");
        assert!(read_answer(&answer(0, 0, 1)).is_err(), "no id");
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_answer(&bytes);
        }

        #[test]
        fn a_cut_answer_is_refused(at in 0_usize..57) {
            let whole = answer(0, 77, 12);
            prop_assert!(read_answer(&whole[..at.min(whole.len() - 1)]).is_err());
        }
    }
}
