//! What goes on when parts of Nestling die. These tests disturb the whole installation, so they run alone, one after another.

mod restarts;
