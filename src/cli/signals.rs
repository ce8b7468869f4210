//! Signals: the first interrupt asks the run to stop, the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::cancel::Cancel;

/// What came in so far.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    first: Arc<AtomicU8>,
}

impl Signals {
    /// Listens to SIGINT, SIGTERM and SIGHUP from now on: the first cancels `cancel`, the second exits with 128 + its number.
    pub fn listen(cancel: &Cancel) -> Self {
        let signals = Self::default();
        let (first, cancel) = (signals.first.clone(), cancel.clone());
        let listener = std::thread::Builder::new().name("signals".to_owned());
        // without the thread signals have their default effect, which ends the process
        let _started = listener.spawn(move || wait(&first, &cancel));
        signals
    }

    /// The number of the first signal, if one came.
    pub fn first(&self) -> Option<u8> {
        Some(self.first.load(Ordering::SeqCst)).filter(|number| *number != 0)
    }
}

fn wait(first: &AtomicU8, cancel: &Cancel) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = kinds.map(signal) else { return };
        loop {
            let number = tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
                _ = hangup.recv() => 1,
            };
            if first.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                std::process::exit(128 + i32::from(number));
            }
            cancel.cancel();
        }
    });
}
