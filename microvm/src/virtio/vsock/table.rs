//! The connections of a worker: found by a number of their own (epoll tokens) or by the port that the guest knows.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::connection::Connection;
use super::credit::Budget;
use super::handle::{ConnectOrder, MAX_CONNECTIONS};

/// Numbers a connection for as long as the worker lives; never used again.
pub type ConnectionId = u64;

/// Local ports are taken from here on, round and round: clear of the well-known ones and of VMADDR_PORT_ANY.
const FIRST_PORT: u32 = 0x4000_0000;
const LAST_PORT: u32 = 0x7fff_ffff;

/// All connections.
pub struct Table {
    connections: HashMap<ConnectionId, Connection>,
    ports: HashMap<u32, ConnectionId>,
    next_id: ConnectionId,
    next_port: u32,
    budget: Budget,
}

impl Table {
    /// Numbers start at `first_id`, so that smaller ones are free for other uses.
    pub fn new(first_id: ConnectionId) -> Table {
        Table {
            connections: HashMap::new(),
            ports: HashMap::new(),
            next_id: first_id,
            next_port: FIRST_PORT,
            budget: Budget::default(),
        }
    }

    /// Whether one more connection is within the bound.
    pub fn has_room(&self) -> bool {
        self.connections.len() < MAX_CONNECTIONS
    }

    /// Adds a connection on a fresh local port.
    pub fn insert(&mut self, order: ConnectOrder) -> ConnectionId {
        let id = self.next_id;
        self.next_id += 1;
        let port = self.free_port();
        self.ports.insert(port, id);
        self.connections
            .insert(id, Connection::new(port, self.budget.take(), order));
        id
    }

    /// The connection, if it still exists.
    pub fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// The connection that the guest means by these ports.
    pub fn find(&self, local_port: u32, peer_port: u32) -> Option<ConnectionId> {
        let id = *self.ports.get(&local_port)?;
        self.connections
            .get(&id)
            .filter(|connection| connection.peer_port == peer_port)
            .map(|_| id)
    }

    /// The guest has forgotten the connection: its port may be used again.
    pub fn release_port(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id)
            && self.ports.get(&connection.local_port) == Some(&id)
        {
            self.ports.remove(&connection.local_port);
        }
    }

    /// Takes the connection out.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.release_port(id);
        let removed = self.connections.remove(&id);
        if let Some(connection) = &removed {
            self.budget.give_back(connection.credit.buffer());
        }
        removed
    }

    /// Takes everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = Connection> + '_ {
        self.ports.clear();
        self.connections.drain().map(|(_, connection)| connection)
    }

    /// There are far fewer connections than ports, so this ends.
    fn free_port(&mut self) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
            if !self.ports.contains_key(&port) {
                return port;
            }
        }
    }
}

/// Deadlines that all lie equally far ahead when they are set, hence in order.
#[derive(Default)]
pub struct Deadlines {
    pending: VecDeque<(Instant, ConnectionId)>,
}

impl Deadlines {
    /// Adds one, no earlier than those before.
    pub fn push(&mut self, at: Instant, id: ConnectionId) {
        self.pending.push_back((at, id));
    }

    /// The next one.
    pub fn next(&self) -> Option<Instant> {
        self.pending.front().map(|(at, _)| *at)
    }

    /// Takes out one that has passed.
    pub fn pop(&mut self, now: Instant) -> Option<ConnectionId> {
        self.pending.pop_front_if(|(at, _)| *at <= now).map(|(_, id)| id)
    }
}

#[cfg(test)]
#[path = "table_test.rs"]
mod table_test;
