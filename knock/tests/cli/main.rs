//! The real binary, over loopback: every datagram is received and opened, every exit code observed.

#[cfg(test)]
mod check;
mod command;
#[cfg(test)]
mod counter;
#[cfg(test)]
mod keygen;
#[cfg(test)]
mod output;
#[cfg(test)]
mod packet;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reply;
#[cfg(test)]
mod support;
#[cfg(test)]
mod wait;
