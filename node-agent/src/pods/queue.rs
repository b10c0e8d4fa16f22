pub use nestling_runtime::queue::Queue;
