//! What real servers have sent (`tests/captures`, made by `scripts/record-captures.py`): relayed byte for byte, and
//! damaged in every way that chance finds.

use std::{fs, path::Path};

use bytes::{Bytes, BytesMut};
use towline_middleware::{CommandKind, Completion, Final, Part};

use super::reader::{Form, ReplyReader, Step};
use crate::wire::{
    Malformed, capability,
    change_user::ChangeUser,
    compressed, eof, err,
    frame::{HEADER_LEN, Header, put_short_packet},
    greeting::Greeting,
    login::{self, Login},
    ok, proxy_header, session_state,
};

/// How many damaged captures each of the two tests below reads.
const MUTATIONS: usize = 5_000_000;

/// One exchange with a server.
#[derive(Clone, Debug)]
struct Capture {
    /// Server, version and kind.
    name: String,
    client: Vec<u8>,
    server: Vec<u8>,
}

impl Capture {
    fn all() -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).expect("the captures").flatten() {
            let name = entry.file_name().into_string().expect("a plain name");
            let Some(name) = name.strip_suffix(".client.bin") else { continue };
            let client = fs::read(entry.path()).expect("a capture");
            let server = fs::read(entry.path().with_file_name(format!("{name}.bin"))).expect("the other half");
            all.push(Self { name: name.to_owned(), client, server });
        }
        assert!(all.len() > 40, "only {} captures", all.len());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn is_login(&self) -> bool {
        self.name.ends_with("_greeting") || self.name.ends_with("_login")
    }

    /// The client's packet, without its header.
    fn payload(&self) -> &[u8] {
        &self.client[HEADER_LEN..]
    }

    fn kind(&self) -> CommandKind {
        CommandKind::from_byte(self.payload()[0])
    }

    /// As the session was in which it was recorded.
    fn form(&self) -> Form {
        Form { deprecate_eof: true, cache_metadata: self.name.starts_with("mariadb") }
    }
}

/// Feeds a reply to a reader in pieces and returns what a client gets. Files that are asked for are answered by one
/// packet. Ends early where bytes are wanting.
fn relay(kind: CommandKind, form: Form, bytes: &[u8], piece: usize) -> Result<Vec<u8>, Malformed> {
    let mut reader = ReplyReader::new(kind, form, 2);
    let (mut buf, mut out, mut file_sent) = (BytesMut::new(), Vec::new(), false);
    let mut pieces = bytes.chunks(piece.max(1));
    loop {
        match reader.step(&mut buf)? {
            Step::Part(Part::Packets(bytes)) => out.extend_from_slice(&bytes),
            Step::Part(Part::Turn(bytes)) => {
                out.extend_from_slice(&bytes);
                reader.answered(if file_sent { b"" } else { b"file\n" });
                file_sent = true;
            }
            Step::Part(Part::Final { end: Final::Ok(completion), sequence }) => {
                let capabilities =
                    capability::SESSION_TRACK | if form.deprecate_eof { capability::DEPRECATE_EOF } else { 0 };
                put_short_packet(&mut out, sequence, |out| ok::encode(out, &completion, capabilities));
            }
            Step::Part(Part::Final { end: Final::Err(error), sequence }) => {
                put_short_packet(&mut out, sequence, |out| err::encode(out, &error));
            }
            Step::NeedMore => match pieces.next() {
                Some(bytes) => buf.extend_from_slice(bytes),
                None => return Ok(out),
            },
            Step::Done => return Ok(out),
        }
    }
}

/// Every decoder over the same bytes: none may panic, whatever it makes of them.
fn decode_all(bytes: &[u8], kind: CommandKind, form: Form) {
    let _ = relay(kind, form, bytes, bytes.len());
    let payload = bytes.get(HEADER_LEN..).unwrap_or_default();
    let _ = Greeting::decode(payload).map(|greeting| greeting.for_client(false));
    if let Ok(login) = Login::decode(payload) {
        login::for_upstream(payload, login.capabilities, login.mariadb_capabilities);
    }
    let _ = Login::asks_for_tls(payload);
    let _ = ChangeUser::decode(payload, capability::SECURE_CONNECTION);
    let _ = proxy_header::decode(bytes);
    let _ = session_state::changes(payload).count();
    let shared = Bytes::copy_from_slice(payload);
    let _ = (ok::decode(&shared), err::decode(&shared));
}

/// Changes one to four things: bytes, lengths, order.
fn damage(random: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..random.u8(1..=4) {
        let at = random.usize(..bytes.len().max(1)).min(bytes.len());
        match random.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.u8(..)),
            2 => bytes.extend_from_within(at..),
            _ if at == bytes.len() => {}
            // The bytes that mean something: small numbers, the marks of lengths, of NULL and of the kinds of packets.
            3 => bytes[at] = *random.choice(&[0, 1, 2, 3, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff]).expect("not empty"),
            4 => bytes[at] ^= 1 << random.u8(..8),
            _ => bytes[at] = random.u8(..),
        }
        bytes.truncate(4096);
    }
}

fn survive(seed: u64, deprecate_eof: bool) {
    let captures = Capture::all();
    let kinds: Vec<CommandKind> = captures.iter().map(Capture::kind).collect();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = Vec::new();
    for _ in 0..MUTATIONS {
        let capture = &captures[random.usize(..captures.len())];
        let source = if random.u8(..4) == 0 { &capture.client } else { &capture.server };
        bytes.clone_from(source);
        damage(&mut random, &mut bytes);
        let kind = if random.bool() { capture.kind() } else { kinds[random.usize(..kinds.len())] };
        decode_all(&bytes, kind, Form { deprecate_eof, cache_metadata: random.bool() });
    }
}

#[test]
fn no_damage_makes_a_decoder_panic() {
    survive(1, true);
}

#[test]
fn nor_where_eofs_are_put_in() {
    survive(2, false);
}

#[test]
fn no_damage_makes_decompression_panic() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut whole = Vec::new();
    compressed::encode(&mut whole, 0, &b"some text that repeats, repeats, repeats, repeats, repeats".repeat(5));
    let mut bytes = Vec::new();
    for _ in 0..MUTATIONS / 50 {
        bytes.clone_from(&whole);
        damage(&mut random, &mut bytes);
        if let Some(header) = compressed::Header::decode(&bytes) {
            let _ = compressed::decode(&mut Vec::new(), header, &bytes[compressed::HEADER_LEN..]);
        }
    }
}

#[test]
fn what_servers_send_is_relayed_byte_for_byte_however_it_is_cut() {
    for capture in Capture::all().iter().filter(|capture| !capture.is_login()) {
        for piece in 1..=capture.server.len() {
            let relayed = relay(capture.kind(), capture.form(), &capture.server, piece);
            assert_eq!(relayed.as_ref(), Ok(&capture.server), "{} in pieces of {piece}", capture.name);
        }
    }
}

#[test]
fn every_cut_of_what_servers_and_clients_send_is_survived() {
    for capture in Capture::all() {
        for bytes in [&capture.server, &capture.client] {
            for len in 0..bytes.len() {
                for deprecate_eof in [true, false] {
                    decode_all(&bytes[..len], capture.kind(), Form { deprecate_eof, ..capture.form() });
                }
            }
        }
    }
}

#[test]
fn greetings_and_logins_are_encoded_as_they_came() {
    for capture in Capture::all().iter().filter(|capture| capture.is_login()) {
        let login = Login::decode(capture.payload()).expect("a login");
        assert_eq!((login.user.as_str(), login.schema.as_str()), ("root", "capture"), "{}", capture.name);
        let again = login::for_upstream(capture.payload(), login.capabilities, login.mariadb_capabilities);
        assert_eq!(again, capture.payload(), "{}", capture.name);
        let Some(server) = capture.name.strip_suffix("_greeting") else { continue };
        let greeting = Greeting::decode(&capture.server[HEADER_LEN..]).expect("a greeting");
        let (family, version) = server.split_once('-').expect("server and version");
        assert_eq!(greeting.is_mariadb(), family == "mariadb");
        assert!(greeting.version.contains(version), "{}", greeting.version);
        let for_client = greeting.for_client(true);
        let changed = for_client.iter().zip(&capture.server[HEADER_LEN..]).filter(|(new, old)| new != old).count();
        assert!(for_client.len() == capture.server.len() - HEADER_LEN && changed <= 8, "only capabilities differ");
    }
}

/// The packets of which every reply consists, one by one.
#[test]
fn each_final_packet_is_encoded_as_it_came() {
    let mut kinds = [0; 3];
    for capture in Capture::all().iter().filter(|capture| capture.kind() != CommandKind::Statistics) {
        let mut rest = &capture.server[..];
        while let Some(header) = Header::decode(rest) {
            let payload = Bytes::copy_from_slice(&rest[HEADER_LEN..HEADER_LEN + header.len]);
            rest = &rest[HEADER_LEN + header.len..];
            let mut out = Vec::new();
            match payload[0] {
                // A report on progress, which is passed on unread.
                err::HEADER if payload.starts_with(b"\xff\xff\xff") => continue,
                err::HEADER => {
                    err::encode(&mut out, &err::decode(&payload).expect("an error"));
                    kinds[0] += 1;
                }
                // The end of the reply: others that begin so may be rows.
                ok::HEADER | eof::HEADER if rest.is_empty() && capture.kind() != CommandKind::Prepare => {
                    let completion: Completion = ok::decode(&payload).expect("an OK");
                    ok::encode(&mut out, &completion, capability::UPSTREAM);
                    kinds[usize::from(completion.ends_rows) + 1] += 1;
                }
                _ => continue,
            }
            assert_eq!(out, payload, "{}", capture.name);
        }
    }
    assert!(kinds.iter().all(|count| *count > 3), "{kinds:?}");
}
