//! Tests of the backend on real servers, one module per topic.

mod conformance;
mod contention;
mod durability;
mod ended;
mod faults;
mod fixture;
mod forks;
mod hand_over;
mod hostile;
mod joined;
mod joined_races;
mod login;
mod lost_parts;
mod lost_replies;
mod named;
mod odd_rows;
mod rows;
mod search_path;
mod shedlock;
mod shedlock_replies;
mod sweep;
mod waiting_marks;
