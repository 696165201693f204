//! The zygotes of the launcher: started when first wanted, and given up when they fail again and again.

use super::{Loop, Source};
use crate::instance::{Instance, Phase};
use crate::shape::Guest;
use crate::wire::{self, Wait};
use crate::zygote::{self, FAILURES_MAX, Word, Zygote};
use api::launcher::ExitStatus;
use model::{Runtime, RuntimeFamily};
use rustix::event::epoll;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Words of one zygote taken in one turn.
const WORDS_PER_TURN: usize = 64;
/// The exit code of a guest that could not give up its privilege; it has run nothing of its function.
const NOT_LOCKED: ExitStatus = ExitStatus::Code(210);

/// By runtime; the index names one in kernel events.
#[derive(Default)]
pub(super) struct Zygotes(Vec<Entry>);

struct Entry {
    runtime: String,
    zygote: Option<Zygote>,
    /// Failures since a guest of it last ran.
    failures: u32,
}

impl Zygotes {
    /// When one must have come up.
    pub fn due(&self) -> Option<Instant> {
        self.0.iter().filter_map(|entry| entry.zygote.as_ref()).filter(|z| !z.up).map(|z| z.due).min()
    }

    /// Ends all.
    pub fn end(self) {
        self.0.into_iter().filter_map(|entry| entry.zygote).for_each(Zygote::end);
    }

    fn find(&mut self, runtime: &str) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.runtime == runtime)
    }
}

impl Loop {
    /// Whether a runtime's zygote takes orders; one that is not there is started.
    pub(super) fn zygote_is_up(&mut self, runtime: &str) -> bool {
        if self.zygotes.find(runtime).is_none() {
            let runtime = runtime.to_owned();
            self.zygotes.0.push(Entry { runtime, zygote: None, failures: 0 });
        }
        let Some(index) = self.zygotes.0.iter().position(|entry| entry.runtime == runtime) else { return false };
        let entry = &self.zygotes.0[index];
        match &entry.zygote {
            Some(zygote) => zygote.up,
            None => {
                let has_one = matches!(Runtime(runtime.to_owned()).family(), RuntimeFamily::Python { .. });
                if has_one && entry.failures < FAILURES_MAX {
                    self.start_zygote(index);
                }
                false
            }
        }
    }

    fn start_zygote(&mut self, index: usize) {
        let runtime = self.zygotes.0[index].runtime.clone();
        let Some(installed) = self.machine.interpreters.get(&runtime) else { return };
        let started = Zygote::start(&self.machine, installed);
        let watched = started.map_err(|failure| failure.message).and_then(|zygote| {
            let watched = self.watch(zygote.socket.as_fd(), Source::Zygote(index as u32), epoll::EventFlags::IN);
            watched.map(|()| zygote).map_err(|error| error.to_string())
        });
        match watched {
            Ok(zygote) => self.zygotes.0[index].zygote = Some(zygote),
            Err(message) => {
                eprintln!("tidegate launcher: start a zygote for {runtime}: {message}");
                self.zygotes.0[index].failures += 1;
            }
        }
    }

    /// Orders the guest of a sandbox that is otherwise complete.
    pub(super) fn fork(&mut self, slot: u32, runtime: &str, entry: &[OwnedFd]) {
        let rehearse = self.has_time_to_rehearse(slot);
        let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
        let zygote = self.zygotes.find(runtime).and_then(|entry| entry.zygote.as_mut());
        let (Some(zygote), Some((log, channel))) = (zygote, instance.for_zygote.take()) else {
            return instance.kill();
        };
        let ordered = instance.group.all_doors().map_err(|error| error.to_string()).and_then(|doors| {
            let ends = (log.as_fd(), channel.as_fd());
            zygote.fork((instance.serial, slot), ends, entry, &doors, rehearse).map_err(|error| error.to_string())
        });
        if let Err(message) = ordered {
            instance.failure = Some(("zygote".to_owned(), message));
            instance.kill();
        }
    }

    /// A rehearsal is worth its time to a guest that waits; while guests are taken as fast as they are made, it holds them up.
    fn has_time_to_rehearse(&self, slot: u32) -> bool {
        let instance = self.instances.get(slot as usize).and_then(Option::as_ref);
        self.stock.waiting_count() == 0 && instance.is_some_and(|instance| self.stock.has_some(&instance.shape))
    }

    /// A zygote has said something, or is gone.
    pub(super) fn read_zygote(&mut self, index: u32) {
        for _ in 0..WORDS_PER_TURN {
            let Some(entry) = self.zygotes.0.get_mut(index as usize) else { return };
            let Some(zygote) = &mut entry.zygote else { return };
            match wire::receive::<Word>(zygote.socket.as_fd(), &mut self.buffer, Wait::Poll) {
                Ok(got) => self.hear(index, got.message, got.files),
                Err(error) if error.would_block() => return,
                Err(_) => return self.lose_zygote(index),
            }
        }
    }

    fn hear(&mut self, index: u32, word: Word, files: Vec<OwnedFd>) {
        let Some(entry) = self.zygotes.0.get_mut(index as usize) else { return };
        let Some(zygote) = &mut entry.zygote else { return };
        match word {
            Word::Up => {
                zygote.up = true;
                self.replenish();
            }
            Word::Forked(serial, pid) => {
                let Some(slot) = zygote.guests.get(&serial).copied() else { return };
                let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
                if instance.serial != serial || instance.phase != Phase::Entering {
                    return;
                }
                (instance.guest, instance.guest_pid) = (files.into_iter().next(), Some(pid));
                self.put_in_stock(slot);
            }
            Word::Failed(serial, message) => {
                let Some(slot) = zygote.guests.remove(&serial) else { return };
                self.end_guest(slot, serial, |instance| instance.failure = Some(("zygote".to_owned(), message)));
            }
            Word::Ended(serial, raw) => {
                let Some(slot) = zygote.guests.remove(&serial) else { return };
                let status = zygote::status(raw);
                if status != NOT_LOCKED {
                    entry.failures = 0;
                }
                self.end_guest(slot, serial, |instance| {
                    if status == NOT_LOCKED && !instance.has_started() {
                        let message = "the guest could not enter its sandbox".to_owned();
                        instance.failure = Some(("zygote".to_owned(), message));
                    } else {
                        instance.status.get_or_insert(status);
                    }
                });
            }
        }
    }

    /// The sandbox of a guest that has ended ends.
    fn end_guest(&mut self, slot: u32, serial: u64, note: impl FnOnce(&mut Instance)) {
        if let Some(Some(instance)) = self.instances.get_mut(slot as usize)
            && instance.serial == serial
        {
            note(instance);
            instance.kill();
        }
        self.note_due(slot);
    }

    /// A sandbox for a zygote's child was not made.
    pub(super) fn guest_failed(&mut self, runtime: &str) {
        if let Some(entry) = self.zygotes.find(runtime) {
            entry.failures += 1;
        }
    }

    /// A zygote has ended: its guests live on as children of this process, and nobody waits for it any more.
    fn lose_zygote(&mut self, index: u32) {
        let Some(entry) = self.zygotes.0.get_mut(index as usize) else { return };
        let Some(zygote) = entry.zygote.take() else { return };
        entry.failures += 1;
        let runtime = entry.runtime.clone();
        eprintln!("tidegate launcher: the zygote of {runtime} has ended ({} in a row)", entry.failures);
        let _ = epoll::delete(&self.epoll, &zygote.socket);
        let slots: Vec<u32> = zygote.guests.values().copied().collect();
        zygote.end();
        for slot in slots {
            let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { continue };
            match instance.guest.as_ref().map(AsFd::as_fd) {
                Some(guest) if !instance.is_ending() => {
                    let watched = epoll::add(
                        &self.epoll,
                        guest,
                        Source::Guest(slot).to_data(),
                        epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
                    );
                    if watched.is_err() {
                        instance.kill();
                    }
                }
                Some(_) => {}
                None => instance.kill(),
            }
            self.note_due(slot);
        }
        let of_runtime = |guest: &Guest| matches!(guest, Guest::Forked { runtime: other } if *other == runtime);
        let shapes: Vec<_> = self.stock.waiting.keys().filter(|shape| of_runtime(&shape.guest)).cloned().collect();
        shapes.iter().for_each(|shape| self.serve_late(shape));
        self.replenish();
    }

    /// A guest whose zygote is gone has ended.
    pub(super) fn guest_gone(&mut self, slot: u32) {
        let Some(Some(instance)) = self.instances.get_mut(slot as usize) else { return };
        let Some(guest) = &instance.guest else { return };
        let ended = waitid(WaitId::PidFd(guest.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let status = match ended {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, signal) => ExitStatus::Signal(signal.unwrap_or(libc::SIGKILL)),
            },
            Ok(None) | Err(_) => ExitStatus::Signal(libc::SIGKILL),
        };
        instance.status.get_or_insert(status);
        instance.kill();
        self.note_due(slot);
    }

    /// A zygote that does not come up in time is ended.
    pub(super) fn tick_zygotes(&mut self, now: Instant) {
        let late = |entry: &Entry| entry.zygote.as_ref().is_some_and(|z| !z.up && z.due <= now);
        let late: Vec<u32> = (0..).zip(&self.zygotes.0).filter(|(_, entry)| late(entry)).map(|(at, _)| at).collect();
        late.into_iter().for_each(|index| self.lose_zygote(index));
    }
}
