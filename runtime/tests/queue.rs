//! What the work queue promises, on paused time.

use futures::FutureExt as _;
use nestling_runtime::queue::Queue;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(start_paused = true)]
async fn a_key_waits_once_and_runs_once_at_a_time() {
    let queue = Queue::new();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.next().await, "a");
    queue.add("a");
    assert_eq!(queue.next().await, "b");
    assert!(queue.next().now_or_never().is_none(), "a is still being worked on");
    queue.done(&"a");
    assert_eq!(queue.next().await, "a");
    queue.done(&"a");
    queue.done(&"b");
    assert!(queue.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_earlier_of_two_delays_counts() {
    let queue = Queue::new();
    let start = Instant::now();
    queue.add_after("a", Duration::from_secs(60));
    queue.add_after("a", Duration::from_secs(5));
    queue.add_after("a", Duration::from_secs(30));
    assert_eq!(queue.next().await, "a");
    assert_eq!(start.elapsed().as_secs(), 5);
    queue.done(&"a");
    assert!(queue.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_delay_does_not_hold_back_what_is_due() {
    let queue = Queue::new();
    queue.add_after("later", Duration::from_secs(60));
    queue.add("now");
    assert_eq!(queue.next().await, "now");
}
