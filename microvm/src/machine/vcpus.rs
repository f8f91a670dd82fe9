//! The vCPUs of a machine and their threads. There may be more later than at first: the guest knows from the start how many there
//! can be, and one that is made later waits for the guest to wake it, as the others did.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_vmm_control::{Counters, VmSpec};
use vm_memory::GuestAddress;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::MachineError;
use super::io::Io;
use super::stop::StopSignal;
use super::vm::Vm;
use crate::jail::{ThreadKind, spawn_worker};
use crate::sync::lock;
use crate::vcpu::counters::ExitCounters;
use crate::vcpu::gate::Gate;
use crate::vcpu::{self, Vcpu};

/// Pause between two signals to a vCPU that has not stopped yet.
const KICK_INTERVAL: Duration = Duration::from_millis(2);
/// The same where the guest goes on afterwards.
const PAUSE_INTERVAL: Duration = Duration::from_micros(50);

/// What every vCPU of a machine gets.
struct Common {
    vm: Arc<Vm>,
    io: Arc<Io>,
    stop: Arc<StopSignal>,
    stopping: Arc<AtomicBool>,
    gate: Arc<Gate>,
    stopped_at: Arc<Mutex<Vec<String>>>,
    counters: Arc<ExitCounters>,
    /// Where the first one starts.
    entry: GuestAddress,
}

/// All vCPUs. The main thread owns them.
pub struct Vcpus {
    common: Common,
    /// Made, but not started.
    waiting: Vec<Vcpu>,
    threads: Vec<JoinHandle<()>>,
    /// How many have been made.
    count: u8,
    max: u8,
}

impl Vcpus {
    /// Makes those that are there from the start; none runs yet.
    pub fn new(
        spec: &VmSpec,
        vm: Arc<Vm>,
        io: Arc<Io>,
        stop: Arc<StopSignal>,
        entry: GuestAddress,
    ) -> Result<Vcpus, MachineError> {
        let mut vcpus = Vcpus {
            common: Common {
                vm,
                io,
                stop,
                stopping: Arc::default(),
                gate: Arc::default(),
                stopped_at: Arc::default(),
                counters: Arc::default(),
                entry,
            },
            waiting: Vec::new(),
            threads: Vec::new(),
            count: 0,
            max: spec.max_vcpus,
        };
        vcpus.make(spec.vcpus)?;
        Ok(vcpus)
    }

    /// Makes further ones, until there are `wanted`.
    fn make(&mut self, wanted: u8) -> Result<(), MachineError> {
        for id in missing(self.count, self.max, wanted)? {
            let vcpu = Vcpu::new(&self.common.vm, id, self.max, self.common.entry)?;
            self.waiting.push(vcpu);
            self.count += 1;
        }
        Ok(())
    }

    /// Starts those that wait.
    pub fn start(&mut self) -> Result<(), MachineError> {
        while let Some(vcpu) = self.waiting.pop() {
            let name = format!("vcpu{}", vcpu.id());
            // A thread that cannot be started does not take it along.
            let place = Arc::new(Mutex::new(Some(vcpu)));
            let taken = place.clone();
            let (io, stop) = (self.common.io.clone(), self.common.stop.clone());
            let (stopping, counters) = (self.common.stopping.clone(), self.common.counters.clone());
            let gate = self.common.gate.clone();
            let stopped_at = self.common.stopped_at.clone();
            let body = move || {
                let Some(vcpu) = lock(&taken).take() else { return };
                let position = vcpu::run(vcpu, io, stop, stopping, gate, counters);
                lock(&stopped_at).push(position);
            };
            match spawn_worker(&name, ThreadKind::Vcpu, body) {
                Ok(thread) => self.threads.push(thread),
                Err(error) => {
                    self.waiting.extend(lock(&place).take());
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Makes and starts further ones, until there are `wanted`. As many or more are there: nothing happens.
    pub fn add(&mut self, wanted: u8) -> Result<(), MachineError> {
        self.make(wanted)?;
        self.start()
    }

    /// As `Machine::halt`.
    pub fn halt(&mut self, patience: Duration) {
        self.common.stopping.store(true, Ordering::Release);
        let start = Instant::now();
        // All at a time: one may be resetting a device that another keeps busy.
        while self.interrupt() > 0 && start.elapsed() < patience {
            std::thread::sleep(KICK_INTERVAL);
        }
        for thread in self.threads.extract_if(.., |thread| thread.is_finished()) {
            if thread.join().is_err() {
                tracing::error!("a vCPU thread panicked");
            }
        }
        self.waiting.clear();
    }

    /// Runs `work` while no vCPU runs the guest. `None`, and nothing was done: they did not all stop within `patience`; one may be
    /// resetting a device that is busy.
    pub fn stopped<T>(&self, patience: Duration, work: impl FnOnce() -> T) -> Option<T> {
        let gate = &self.common.gate;
        gate.close();
        let start = Instant::now();
        let all_wait = loop {
            let is_late = start.elapsed() >= patience;
            if gate.waiting() >= self.interrupt() {
                break true;
            }
            if is_late {
                break false;
            }
            std::thread::sleep(PAUSE_INTERVAL);
        };
        let done = all_wait.then(work);
        gate.open();
        done
    }

    /// Has every vCPU that runs the guest leave it; returns how many threads there are. A signal that comes just before a vCPU enters the
    /// guest is lost, so it is repeated until they are where they shall be.
    fn interrupt(&self) -> usize {
        let running = self.threads.iter().filter(|thread| !thread.is_finished());
        running
            .inspect(|thread| {
                if let Err(error) = thread.kill(SIGRTMIN()) {
                    tracing::debug!("cannot signal a vCPU: {error}");
                }
            })
            .count()
    }

    /// Where they were when they stopped, those that have.
    pub fn stopped_at(&self) -> String {
        lock(&self.common.stopped_at).join("; ")
    }

    /// Their exits so far.
    pub fn counters(&self) -> Counters {
        self.common.counters.read()
    }
}

/// The ids of the vCPUs to make when there are `count` and there shall be `wanted`.
fn missing(count: u8, max: u8, wanted: u8) -> Result<Range<u8>, MachineError> {
    if wanted > max {
        return Err(MachineError::TooManyVcpus { wanted, max });
    }
    Ok(count..wanted)
}

#[cfg(test)]
#[path = "vcpus_test.rs"]
mod vcpus_test;
