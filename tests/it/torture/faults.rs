//! What is done to a cluster, as a seed has it.

use std::time::Duration;

use fastrand::Rng;

use towline::fail_point::FailPoint;

use crate::support::Weather;

/// A node of the cluster: 0 is the master, then the slaves.
pub(super) type Node = usize;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// These are killed with -9 at once, and each started again after so long; a server is started by its node.
    Kill { nodes: Vec<Node>, servers: Vec<Node>, down: Duration },
    /// A node is started again and dies between two steps, if it comes there in so long; then it is started once more.
    Die { node: Node, point: FailPoint, passage: u32, patience: Duration },
    /// A node stands still for so long.
    Freeze { node: Node, down: Duration },
    /// What lies between the master and a slave becomes so, until it changes again.
    Weather { slave: Node, weather: Weather },
    /// A server ends its node's own sessions: those that capture, apply, read and compare.
    Disconnect { node: Node },
    /// A new file of the master's binlog.
    Rotate,
    /// The disk under a server's data is full for so long; then the server is killed, or waited for.
    FullDisk { node: Node, down: Duration, killed: bool },
}

/// Draws the next fault, and how long it is until then.
pub(super) fn next(rng: &mut Rng, slaves: usize) -> (Duration, Fault) {
    let wait = milliseconds(rng, 100..1500);
    let (slave, any) = (rng.usize(1..=slaves), rng.usize(..=slaves));
    let down = milliseconds(rng, 0..1500);
    let kill = |nodes: &[Node], servers: &[Node]| Fault::Kill { nodes: nodes.into(), servers: servers.into(), down };
    let fault = match rng.u8(..100) {
        0..12 => kill(&[slave], &[]),
        12..20 => kill(&[0], &[]),
        20..30 => kill(&[], &[slave]),
        30..37 => kill(&[], &[0]),
        37..43 => kill(&[any], &[any]),
        43..46 => kill(&[0, slave], &[]),
        46..49 => kill(&[], &[0, slave]),
        49..52 => kill(&Vec::from_iter(0..=slaves), &Vec::from_iter(0..=slaves)),
        52..62 => {
            let point = FailPoint::ALL[rng.usize(..FailPoint::ALL.len())];
            let node = if point.is_masters() { 0 } else { slave };
            Fault::Die { node, point, passage: rng.u32(1..8), patience: down * 3 }
        }
        62..66 => Fault::Freeze { node: any, down: down * 3 },
        66..85 => Fault::Weather { slave, weather: weather(rng) },
        85..91 => Fault::Disconnect { node: any },
        91..95 => Fault::Rotate,
        _ => Fault::FullDisk { node: any, down: down * 2, killed: rng.u8(..4) > 0 },
    };
    (wait, fault)
}

/// Draws what the network is like.
pub(super) fn weather(rng: &mut Rng) -> Weather {
    match rng.u8(..7) {
        0 => Weather::Calm,
        1 => Weather::Slow(milliseconds(rng, 5..300)),
        2 => Weather::Narrow(rng.u32(10_000..300_000)),
        3 => Weather::Tearing(rng.u32(2..40)),
        4 => Weather::Swallowing,
        _ => Weather::Repeating,
    }
}

fn milliseconds(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

#[test]
fn a_seed_gives_the_same_faults_each_time() {
    let drawn = |seed| {
        let mut rng = Rng::with_seed(seed);
        (0..200).map(|_| next(&mut rng, 2)).collect::<Vec<_>>()
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
}
