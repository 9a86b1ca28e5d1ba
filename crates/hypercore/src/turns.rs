//! Fair turns: few places, and a queue for each holder, which are served in turn. However much of one holder's waits,
//! another's first work waits for one turn of each holder before it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::Wallet;
use tokio::sync::oneshot;

/// Works of one holder that wait for one kind of places.
pub(crate) const MAX_WAITING: usize = 64;

/// Whose work it is; an older gateway does not say, and all of its holders wait as one.
pub(crate) type Holder = Option<Wallet>;

/// Comes with the turn. Whoever drops it waits no more, and a turn that had come goes on to the next.
pub(crate) type Waiting = oneshot::Receiver<Turn>;

/// So many works of the holder wait already that it may have no more.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_WAITING} of your works wait for their turn on this node already; try again when one is done")]
pub(crate) struct QueueFull;

/// Places that holders take by turns.
pub(crate) struct Turns(Arc<Mutex<Queues>>);

struct Queues {
    free: usize,
    /// Who waits, the holder first whose turn it is.
    waiting: VecDeque<(Holder, VecDeque<oneshot::Sender<Turn>>)>,
}

/// A place, until it is dropped.
pub(crate) struct Turn(Arc<Mutex<Queues>>);

impl Turns {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Queues { free: places, waiting: VecDeque::new() })))
    }

    /// Has a work of this holder wait for a place.
    pub(crate) fn ask(&self, holder: Holder) -> Result<Waiting, QueueFull> {
        let (sender, waiting) = oneshot::channel();
        let mut queues = lock(&self.0);
        if queues.free > 0 {
            queues.free -= 1;
            drop(queues);
            drop(sender.send(Turn(Arc::clone(&self.0))));
            return Ok(waiting);
        }
        queues.forget_abandoned();
        match queues.waiting.iter_mut().find(|(of, _)| *of == holder) {
            Some((_, queue)) if queue.len() >= MAX_WAITING => return Err(QueueFull),
            Some((_, queue)) => queue.push_back(sender),
            None => queues.waiting.push_back((holder, VecDeque::from([sender]))),
        }
        Ok(waiting)
    }
}

impl Queues {
    fn forget_abandoned(&mut self) {
        for (_, queue) in &mut self.waiting {
            queue.retain(|sender| !sender.is_closed());
        }
        self.waiting.retain(|(_, queue)| !queue.is_empty());
    }

    /// Who gets a place that has become free, if anybody waits.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        self.forget_abandoned();
        let next = self.waiting.pop_front().and_then(|(holder, mut queue)| {
            let first = queue.pop_front();
            if !queue.is_empty() {
                self.waiting.push_back((holder, queue));
            }
            first
        });
        if next.is_none() {
            self.free += 1;
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = lock(&self.0).next();
        if let Some(sender) = next {
            // Where nobody waits for it any more it is dropped here, and goes on.
            drop(sender.send(Self(Arc::clone(&self.0))));
        }
    }
}

fn lock(queues: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn holder(number: u8) -> Holder {
        Some(Wallet([number; 32]))
    }

    /// Whose turns come, and in which order, when each is given back before the next.
    fn served(mut all: Vec<(u8, Waiting)>) -> Vec<u8> {
        let mut order = Vec::new();
        while let Some((at, turn)) =
            all.iter_mut().enumerate().find_map(|(at, (_, one))| one.try_recv().ok().map(|turn| (at, turn)))
        {
            order.push(all.remove(at).0);
            drop(turn);
        }
        assert!(all.is_empty(), "some wait for good: {order:?}");
        order
    }

    fn free(turns: &Turns) -> usize {
        lock(&turns.0).free
    }

    #[test]
    fn a_holder_with_many_works_holds_up_another_for_one_of_them() {
        let turns = Turns::new(1);
        let mut all: Vec<_> = (0..5).map(|_| (1, turns.ask(holder(1)).unwrap())).collect();
        all.extend([(2, turns.ask(holder(2)).unwrap()), (2, turns.ask(holder(2)).unwrap())]);
        all.push((3, turns.ask(holder(3)).unwrap()));
        assert_eq!(served(all), [1, 1, 2, 3, 1, 2, 1, 1]);
        assert_eq!(free(&turns), 1);
    }

    #[test]
    fn as_many_work_at_once_as_there_are_places() {
        let turns = Turns::new(2);
        let mut all: Vec<_> = (0..3).map(|number| turns.ask(holder(number)).unwrap()).collect();
        let first = all[0].try_recv().unwrap();
        let _second = all[1].try_recv().unwrap();
        assert!(all[2].try_recv().is_err());
        drop(first);
        assert!(all[2].try_recv().is_ok());
    }

    #[test]
    fn who_waits_no_more_is_passed_over_and_a_turn_that_nobody_takes_goes_on() {
        let turns = Turns::new(1);
        let held = turns.ask(holder(1)).unwrap().try_recv().unwrap();
        let (left, came, last) = (turns.ask(holder(1)), turns.ask(holder(2)), turns.ask(holder(3)));
        drop(left);
        drop(held);
        // It came, and its holder left without a look at it.
        drop(came);
        let mut last = last.unwrap();
        drop(last.try_recv().unwrap());
        assert_eq!(free(&turns), 1);
        drop(turns.ask(holder(1)));
        assert_eq!(free(&turns), 1);
    }

    #[test]
    fn beyond_its_bound_a_holder_is_refused_and_no_other_and_what_was_given_up_counts_no_more() {
        let turns = Turns::new(1);
        let held = turns.ask(holder(1)).unwrap();
        let mut all: Vec<_> = (0..MAX_WAITING).map(|_| (1, turns.ask(holder(1)).unwrap())).collect();
        assert!(turns.ask(holder(1)).is_err());
        all.push((0, turns.ask(None).unwrap()));
        drop(all.remove(7));
        all.push((1, turns.ask(holder(1)).unwrap()));
        assert!(turns.ask(holder(1)).is_err());
        drop(held);
        let order = served(all);
        assert_eq!((order.len(), order[1]), (MAX_WAITING + 1, 0));
    }

    #[test]
    fn many_who_come_and_leave_lose_no_place() {
        let turns = Turns::new(3);
        let threads: Vec<_> = (0..8_u8)
            .map(|number| {
                let turns = Turns(Arc::clone(&turns.0));
                std::thread::spawn(move || {
                    for round in 0..500 {
                        let waiting = turns.ask(holder(number % 4)).unwrap();
                        if round % 3 != 0 {
                            drop(waiting.blocking_recv().unwrap());
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(free(&turns), 3);
    }
}
