//! What do packets cost: framing, the packets that end a result, compression?

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use towline::wire::{
    capability::UPSTREAM,
    compressed,
    frame::{HEADER_LEN, Header, put_packet},
    ok,
};
use towline_middleware::Completion;

fn framing(c: &mut Criterion) {
    let mut rows = Vec::new();
    for number in 0..1000u32 {
        put_packet(&mut rows, number as u8, &[b'x'; 120]);
    }
    let mut group = c.benchmark_group("frames");
    group.throughput(Throughput::Bytes(rows.len() as u64));
    group.bench_function("walk_1000_rows", |b| {
        b.iter(|| {
            let (mut rest, mut count) = (black_box(&rows[..]), 0);
            while let Some(header) = Header::decode(rest) {
                rest = &rest[HEADER_LEN + header.len..];
                count += 1;
            }
            count
        });
    });
    let mut out = Vec::new();
    group.bench_function("put_1000_rows", |b| {
        b.iter(|| {
            out.clear();
            (0..1000u32).fold(0, |next, _| put_packet(&mut out, next, black_box(&[b'x'; 120])))
        });
    });
    group.finish();
}

fn finals(c: &mut Criterion) {
    let end = Completion { ends_rows: true, status: 2, ..Completion::default() };
    let mut payload = Vec::new();
    ok::encode(&mut payload, &end, UPSTREAM);
    let payload = Bytes::from(payload);
    c.bench_function("decode_ok", |b| b.iter(|| ok::decode(black_box(&payload))));
    let mut out = Vec::new();
    c.bench_function("encode_ok", |b| {
        b.iter(|| {
            out.clear();
            ok::encode(&mut out, black_box(&end), UPSTREAM);
        });
    });
}

fn compression(c: &mut Criterion) {
    let text: Vec<u8> =
        (0..1000).flat_map(|n| format!("{n}, some row of text, {}\n", n * 7919 % 1000).into_bytes()).collect();
    let mut packed = Vec::new();
    compressed::encode(&mut packed, 0, &text);
    let header = compressed::Header::decode(&packed).expect("a whole header");
    let mut group = c.benchmark_group("compression");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("compress", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            compressed::encode(&mut out, 0, black_box(&text))
        });
    });
    group.bench_function("decompress", |b| {
        b.iter(|| {
            let mut out = Vec::new();
            compressed::decode(&mut out, header, black_box(&packed[compressed::HEADER_LEN..]))
        });
    });
    group.finish();
}

criterion_group!(benches, framing, finals, compression);
criterion_main!(benches);
