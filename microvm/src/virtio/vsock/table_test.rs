use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;

fn order() -> ConnectOrder {
    let (stream, _) = UnixStream::pair().unwrap();
    ConnectOrder {
        port: 1024,
        stream: stream.into(),
        done: Box::new(|_| ()),
    }
}

#[test]
fn a_local_port_is_not_used_again_while_its_connection_lives() {
    let mut table = Table::new(16);
    let first = table.insert(order());
    let port = table.get(first).unwrap().local_port;
    table.next_port = port;
    let second = table.insert(order());
    assert_ne!(table.get(second).unwrap().local_port, port);
    table.remove(first);
    table.next_port = port;
    let third = table.insert(order());
    assert_eq!(table.get(third).unwrap().local_port, port);
    assert_ne!(third, first);
}

#[test]
fn ports_wrap_within_their_range() {
    let mut table = Table::new(16);
    table.next_port = LAST_PORT;
    let last = table.insert(order());
    let first = table.insert(order());
    assert_eq!(table.get(last).unwrap().local_port, LAST_PORT);
    assert_eq!(table.get(first).unwrap().local_port, FIRST_PORT);
}

#[test]
fn only_both_ports_together_find_a_connection() {
    let mut table = Table::new(16);
    let id = table.insert(order());
    let port = table.get(id).unwrap().local_port;
    assert_eq!(table.find(port, 1024), Some(id));
    assert_eq!(table.find(port, 1025), None);
    assert_eq!(table.find(port + 1, 1024), None);
}

#[test]
fn a_released_port_belongs_to_its_next_connection() {
    let mut table = Table::new(16);
    let draining = table.insert(order());
    let port = table.get(draining).unwrap().local_port;
    table.release_port(draining);
    table.next_port = port;
    let next = table.insert(order());
    assert_eq!(table.find(port, 1024), Some(next));
    table.remove(draining);
    assert_eq!(table.find(port, 1024), Some(next));
}

#[test]
fn deadlines_come_out_when_they_have_passed() {
    let now = Instant::now();
    let mut deadlines = Deadlines::default();
    deadlines.push(now, 1);
    deadlines.push(now + Duration::from_secs(1), 2);
    assert_eq!(deadlines.pop(now), Some(1));
    assert_eq!(deadlines.pop(now), None);
    assert_eq!(deadlines.next(), Some(now + Duration::from_secs(1)));
}
