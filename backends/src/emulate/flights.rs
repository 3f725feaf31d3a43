//! Asynchronous copies under way.
//!
//! A flight is known by its number. It ends when it is waited for, or before that at random; the one who waits asks
//! again for those that have ended.

use super::tensor_map::Transfer;

/// The number of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlightId {
    slot: u32,
    turn: u32,
}

/// What will be done.
#[derive(Clone, Debug)]
pub(super) enum Flight {
    /// So many bytes from here to there, and zeros behind them up to a length.
    Copy { from: usize, to: usize, bytes: usize, len: usize },
    /// Runs of bytes to shared memory, whose arrival a barrier counts.
    Load { transfer: Transfer, barrier: usize },
    /// Runs of bytes from shared memory to global memory; `read` once they have been taken.
    Store { transfer: Transfer, read: Option<Vec<u8>> },
    /// An arrival at a barrier, after other flights.
    Arrive { barrier: usize, after: Vec<FlightId> },
}

#[derive(Default)]
struct Slot {
    turn: u32,
    flight: Option<Flight>,
    is_late: bool,
}

/// All of a cluster's.
#[derive(Default)]
pub(super) struct Flights {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Flights {
    /// Begins a flight; a late one ends when it is waited for, or when nothing else can go on.
    pub fn depart(&mut self, flight: Flight, is_late: bool) -> FlightId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[slot as usize];
        (entry.flight, entry.is_late) = (Some(flight), is_late);
        FlightId { slot, turn: entry.turn }
    }

    /// Takes a flight out, if it is still under way.
    pub fn take(&mut self, id: FlightId) -> Option<Flight> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|s| s.turn == id.turn)?;
        let flight = slot.flight.take()?;
        slot.turn = slot.turn.wrapping_add(1);
        self.free.push(id.slot);
        Some(flight)
    }

    pub fn get_mut(&mut self, id: FlightId) -> Option<&mut Flight> {
        self.slots.get_mut(id.slot as usize).filter(|s| s.turn == id.turn)?.flight.as_mut()
    }

    /// The flight in a slot, counted around, if it isn't late.
    pub fn at(&self, slot: usize) -> Option<FlightId> {
        let at = slot.checked_rem(self.slots.len())?;
        self.id(at).filter(|_| !self.slots[at].is_late)
    }

    /// The first one under way from a slot on.
    pub fn next_from(&self, slot: usize) -> Option<FlightId> {
        let n = self.slots.len();
        (0..n).find_map(|k| self.id(slot.wrapping_add(k) % n))
    }

    fn id(&self, at: usize) -> Option<FlightId> {
        let slot = &self.slots[at];
        slot.flight.as_ref().map(|_| FlightId { slot: at as u32, turn: slot.turn })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flight_ends_once() {
        let mut flights = Flights::default();
        let copy = |from| Flight::Copy { from, to: 0, bytes: 4, len: 4 };
        let (a, b) = (flights.depart(copy(1), false), flights.depart(copy(2), true));
        assert!(flights.take(a).is_some() && flights.take(a).is_none());
        let c = flights.depart(copy(3), false);
        assert!(flights.take(a).is_none(), "its slot is another's");
        assert_eq!((flights.at(0), flights.at(1)), (Some(c), None), "the other is late");
        assert!(flights.next_from(5).is_some());
        assert!(flights.take(c).is_some() && flights.take(b).is_some());
        assert_eq!(flights.next_from(0), None);
    }
}
