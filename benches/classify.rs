//! What does it cost to tell a read from a write: the scan alone, with the plan at hand, and the first time?
//!
//! `unclassified` is a classifier that knows its answer: `hit` less that is the price of classification.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use towline::classify::SqlClassifier;
use towline_middleware::{Classifier, Intent, Plan, SqlMode, testing::Known};

const ORM: &str = "SELECT `u`.`id`, `u`.`name`, `u`.`email`, COUNT(`o`.`id`) AS `orders` FROM `user` AS `u` \
    LEFT JOIN `order` AS `o` ON `o`.`user_id` = `u`.`id` WHERE `u`.`active` = 1 AND `u`.`id` IN (1, 2, 3) LIMIT 21";

/// The texts by name. `$` stands where each miss puts another name, so that it is a miss.
fn texts() -> [(&'static str, String); 4] {
    let row = format!("(50, 4711, '{}', '{}')", "12345678901-".repeat(10), "09876543210-".repeat(5));
    let insert = |rows: usize| format!("INSERT INTO sbtest$ (id, k, c, pad) VALUES {}", vec![&*row; rows].join(", "));
    [
        ("point_select", "SELECT c FROM sbtest$ WHERE id=5012".to_owned()),
        ("orm_select", ORM.replace("`user`", "`user$`")),
        ("insert_100_rows", insert(100)),
        ("insert_1000_rows", insert(1000)),
    ]
}

fn classify(c: &mut Criterion) {
    let known: Box<dyn Classifier> = Box::new(Known(Arc::new(Plan::bare(Intent::Read, "bench"))));
    let classifier = SqlClassifier::for_server("10.11.19-MariaDB");
    let mode = SqlMode::default();
    for (name, text) in texts() {
        let sql = text.replace('$', "1");
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(sql.len() as u64));
        group.bench_function("unclassified", |b| b.iter(|| known.classify(black_box(sql.as_bytes()), mode)));
        group.bench_function("scan", |b| b.iter(|| classifier.key(black_box(sql.as_bytes()), mode)));
        group.bench_function("hit", |b| b.iter(|| classifier.classify(black_box(sql.as_bytes()), mode)));
        let mut next = 1;
        let mut other = || {
            next += 1;
            text.replace('$', &next.to_string())
        };
        group.bench_function("miss", |b| {
            b.iter_batched(&mut other, |sql| classifier.classify(sql.as_bytes(), mode), BatchSize::SmallInput);
        });
        group.finish();
    }
}

criterion_group!(benches, classify);
criterion_main!(benches);
