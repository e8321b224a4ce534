//! The one table of operations: from it come the names in errors, the kinds of frames and the collectives that
//! [`crate::schedule`] plans.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

use std::fmt;
use std::str::FromStr;

mod origin;

pub use origin::{Layout, Origin};

/// An enum whose variants have names that people type, listed in order.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$variant_doc:meta])* $variant:ident $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::operation::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().copied().find(|known| known.name() == text);
                found.ok_or_else(|| {
                    $crate::operation::UnknownName::new($what, text, Self::ALL.iter().map(|known| known.name()))
                })
            }
        }
    };
}
pub(crate) use named;

/// A name that means nothing here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {given:?} (expected one of: {known})")]
pub struct UnknownName {
    what: &'static str,
    given: String,
    known: String,
}

impl UnknownName {
    pub(crate) fn new<'a>(what: &'static str, given: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self { what, given: given.to_owned(), known: known.collect::<Vec<_>>().join(", ") }
    }
}

/// Which ranks take part in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// One function, before or outside a group.
    Setup,
    /// Two ranks.
    PointToPoint,
    /// All ranks of a communicator.
    Collective,
    /// No operation of the application: frames by which ranks run the group.
    Control,
}

/// What MPI calls an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Standard {
    /// The function, like `MPI_Allreduce`.
    pub function: &'static str,
    /// Its section in MPI 4.1.
    pub section: &'static str,
}

/// How much of a vector a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Extent {
    /// There is no such buffer.
    None,
    /// A vector, or the block of one rank.
    One,
    /// The blocks of all ranks.
    All,
}

/// What an operation moves. Of an operation with a root, the other ranks have no buffer for what only the root has:
/// all blocks, or the result of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moves {
    /// What a rank sends.
    pub send: Extent,
    /// What a rank receives. A buffer that is both is this one.
    pub receive: Extent,
    /// Whether an operator combines it.
    pub combined: bool,
    /// Whether blocks have lengths of their own.
    pub counted: bool,
    /// Whether one buffer can do for both ways.
    pub in_place: bool,
}

/// A column of the table: what there is beside the buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Copied,
    Combined,
    Counted,
    CombinedCounted,
}

/// A column of the table: the class, and whether the operation has a root.
#[derive(Clone, Copy)]
enum Role {
    Setup,
    Pair,
    All,
    Rooted,
    Control,
}

macro_rules! operations {
    ($(
        $doc:literal $name:ident $text:literal $role:ident
        $(frame $kind:ident = $code:literal)?
        $(mpi $function:literal $section:literal)?
        $(plans $collective:ident $collective_name:literal)?
        $(planned by $planner:ident)?
        $(moves $send:ident to $receive:ident $how:ident)?;
    )+) => {
        /// What a rank does, as errors name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Operation {
            $(#[doc = $doc] $name,)+
        }

        impl Operation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            fn role(self) -> Role {
                match self {
                    $(Self::$name => Role::$role,)+
                }
            }

            /// The function of MPI that it corresponds to, if there is one.
            #[doc(hidden)]
            pub fn standard(self) -> Option<Standard> {
                match self {
                    $($(Self::$name => Some(Standard { function: $function, section: $section }),)?)+
                    _ => None,
                }
            }

            /// What it moves; `None` if the application gives it no data.
            #[doc(hidden)]
            pub fn moves(self) -> Option<Moves> {
                match self {
                    $($(Self::$name => Some(Moves::new(Extent::$send, Extent::$receive, How::$how)),)?)+
                    _ => None,
                }
            }

            /// The kind of its frames; `None` if it sends none of its own.
            #[doc(hidden)]
            pub fn kind(self) -> Option<Kind> {
                match self {
                    $($(Self::$name => Some(Kind::$kind),)?)+
                    _ => None,
                }
            }

            /// The collective whose schedules it runs; `None` if it runs none.
            pub fn collective(self) -> Option<Collective> {
                match self {
                    $($(Self::$name => Some(Collective::$collective),)?)+
                    $($(Self::$name => Some(Collective::$planner),)?)+
                    _ => None,
                }
            }
        }

        /// What a frame belongs to. The codes are those on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(clippy::exhaustive_enums, reason = "internal: every frame is handled")]
        pub enum Kind {
            $($(#[doc = $doc] $kind = $code,)?)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$($(Self::$kind,)?)+];

            /// The kind of this code.
            pub(crate) fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($($code => Some(Self::$kind),)?)+
                    _ => None,
                }
            }

            /// The operation as errors name it.
            pub fn operation(self) -> Operation {
                match self {
                    $($(Self::$kind => Operation::$name,)?)+
                }
            }
        }

        named! {
            /// An operation of all ranks that [`crate::schedule`] plans. Those for blocks of different lengths are
            /// planned as those for equal ones.
            Collective: "collective" {
                $($(#[doc = $doc] $collective $collective_name,)?)+
            }
        }
    };
}

// Code 0 is free. A code that was given once is never given to something else.
operations! {
    "Reading the configuration." Configure "configure" Setup;
    "Forming the group: rendezvous, punching, and the barrier that ends it." Join "join" All frame Join = 2;
    "Serving a rendezvous." Rendezvous "rendezvous" Setup;
    "Serving a store." Store "store" Setup;
    "Finding out which NAT is between this machine and the internet." Discover "discover" Setup;
    "Point-to-point send; its frames are messages, with a tag." Send "send" Pair
        frame Message = 1 mpi "MPI_Send" "3.2.1"
        moves One to None Copied;
    "Synchronous send, which ends once a receive has got the message; its frames are those of a send."
        SynchronousSend "ssend" Pair mpi "MPI_Ssend" "3.4"
        moves One to None Copied;
    "Point-to-point receive." Receive "recv" Pair mpi "MPI_Recv" "3.2.4"
        moves None to One Copied;
    "Combined send and receive." SendReceive "sendrecv" Pair mpi "MPI_Sendrecv" "3.10"
        moves One to One Copied;
    "Barrier." Barrier "barrier" All frame Barrier = 3 mpi "MPI_Barrier" "6.3" plans Barrier "barrier"
        moves None to None Copied;
    "Broadcast." Broadcast "broadcast" Rooted
        frame Broadcast = 4 mpi "MPI_Bcast" "6.4" plans Broadcast "broadcast"
        moves None to One Copied;
    "Reduce to one root." Reduce "reduce" Rooted
        frame Reduce = 5 mpi "MPI_Reduce" "6.9.1" plans Reduce "reduce"
        moves One to One Combined;
    "Reduce to all ranks." Allreduce "allreduce" All
        frame Allreduce = 6 mpi "MPI_Allreduce" "6.9.6" plans Allreduce "allreduce"
        moves One to One Combined;
    "Gather to one root." Gather "gather" Rooted
        frame Gather = 8 mpi "MPI_Gather" "6.5" plans Gather "gather"
        moves One to All Copied;
    "Gather of blocks of different lengths." Gatherv "gatherv" Rooted
        frame Gatherv = 9 mpi "MPI_Gatherv" "6.5" planned by Gather
        moves One to All Counted;
    "Scatter from one root." Scatter "scatter" Rooted
        frame Scatter = 10 mpi "MPI_Scatter" "6.6" plans Scatter "scatter"
        moves All to One Copied;
    "Scatter of blocks of different lengths." Scatterv "scatterv" Rooted
        frame Scatterv = 11 mpi "MPI_Scatterv" "6.6" planned by Scatter
        moves All to One Counted;
    "Gather to all." Allgather "allgather" All
        frame Allgather = 12 mpi "MPI_Allgather" "6.7" plans Allgather "allgather"
        moves One to All Copied;
    "Gather of blocks of different lengths to all." Allgatherv "allgatherv" All
        frame Allgatherv = 13 mpi "MPI_Allgatherv" "6.7" planned by Allgather
        moves One to All Counted;
    "A block from each to each." Alltoall "alltoall" All
        frame Alltoall = 14 mpi "MPI_Alltoall" "6.8" plans Alltoall "alltoall"
        moves All to All Copied;
    "A block of any length from each to each." Alltoallv "alltoallv" All
        frame Alltoallv = 15 mpi "MPI_Alltoallv" "6.8" planned by Alltoall
        moves All to All Counted;
    "Reduce and scatter blocks of one length." ReduceScatterBlock "reduce_scatter_block" All
        frame ReduceScatterBlock = 16 mpi "MPI_Reduce_scatter_block" "6.10.1"
        plans ReduceScatter "reduce_scatter"
        moves All to One Combined;
    "Reduce and scatter blocks of different lengths." ReduceScatter "reduce_scatter" All
        frame ReduceScatter = 17 mpi "MPI_Reduce_scatter" "6.10.2" planned by ReduceScatter
        moves All to One CombinedCounted;
    "Inclusive prefix reduction." Scan "scan" All frame Scan = 18 mpi "MPI_Scan" "6.11.1" plans Scan "scan"
        moves One to One Combined;
    "Exclusive prefix reduction." Exscan "exscan" All
        frame Exscan = 19 mpi "MPI_Exscan" "6.11.2" plans Exscan "exscan"
        moves One to One Combined;
    "Looking for a message." Probe "probe" Pair mpi "MPI_Probe" "3.8.1"
        moves None to None Copied;
    "Splitting a communicator; its frames exchange the colours." Split "split" All
        frame Split = 20 mpi "MPI_Comm_split" "7.4.2" planned by Allgather;
    "Duplicating a communicator, which sends nothing." Duplicate "duplicate" All
        frame Duplicate = 21 mpi "MPI_Comm_dup" "7.4.2";
    "Making a communicator of a group, which sends nothing." CreateGroup "create_group" All
        mpi "MPI_Comm_create_group" "7.4.2";
    "Planning a persistent collective, which sends nothing." Init "init" All
        frame Init = 32 mpi "MPI_Allreduce_init" "6.13";
    "The sender's next frame comes on another stream." Switch "switch" Control frame Switch = 7;
    "The sender waits in the operation whose envelope is the payload." Inquiry "inquiry" Control
        frame Inquiry = 22;
    "The communicator has failed; the payload says why." Revoke "revoke" Control frame Revoke = 23;
    "The sender has a place for the rest of a message (step 0), or takes part in a collective (step 1)." Ready "ready"
        Control frame Ready = 24;
    "What the sender does, for a peer that has asked." Answer "answer" Control frame Answer = 25;
    "The sender has left the communicator; the payload says why." Leave "leave" Control frame Leave = 26;
    "A receive has got the message of this number, which was sent synchronously." Matched "matched" Control
        frame Matched = 27;
}

impl Operation {
    /// Which ranks take part in it.
    #[doc(hidden)]
    pub fn class(self) -> Class {
        match self.role() {
            Role::Setup => Class::Setup,
            Role::Pair => Class::PointToPoint,
            Role::All | Role::Rooted => Class::Collective,
            Role::Control => Class::Control,
        }
    }

    /// Whether one rank of it is the root.
    pub fn has_root(self) -> bool {
        matches!(self.role(), Role::Rooted)
    }

    /// Elements of a rank's buffers, to send and to receive, where a vector or block has `count` and rank 0 is the root.
    pub fn buffers(self, count: usize, size: u32, rank: u32) -> (usize, usize) {
        Layout { size, root: 0, length: &|_, _| count }.buffers(self, rank)
    }
}

impl Moves {
    fn new(send: Extent, receive: Extent, how: How) -> Self {
        let combined = matches!(how, How::Combined | How::CombinedCounted);
        let counted = matches!(how, How::Counted | How::CombinedCounted);
        Self { send, receive, combined, counted, in_place: send != Extent::None && receive != Extent::None }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Operation {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let found = Self::ALL.iter().copied().find(|known| known.name() == text);
        found.ok_or_else(|| UnknownName::new("operation", text, Self::ALL.iter().map(|known| known.name())))
    }
}

impl Collective {
    /// The operation on blocks of equal length, or of all on vectors.
    pub fn operation(self) -> Operation {
        let of = |operation: &Operation| operation.collective() == Some(self);
        Operation::ALL.iter().copied().find(of).expect("each collective is planned by a row of the table")
    }

    /// Whether one rank of it is the root.
    pub fn has_root(self) -> bool {
        self.operation().has_root()
    }

    /// Whether it combines what the ranks have.
    pub fn is_reduction(self) -> bool {
        self.operation().moves().is_some_and(|moves| moves.combined)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_on_the_wire_are_what_they_have_always_been() {
        let codes: Vec<(u8, &str)> = Kind::ALL.iter().map(|kind| (*kind as u8, kind.operation().name())).collect();
        let known: BTreeSet<(u8, &str)> = [
            (1, "send"),
            (2, "join"),
            (3, "barrier"),
            (4, "broadcast"),
            (5, "reduce"),
            (6, "allreduce"),
            (7, "switch"),
            (8, "gather"),
            (9, "gatherv"),
            (10, "scatter"),
            (11, "scatterv"),
            (12, "allgather"),
            (13, "allgatherv"),
            (14, "alltoall"),
            (15, "alltoallv"),
            (16, "reduce_scatter_block"),
            (17, "reduce_scatter"),
            (18, "scan"),
            (19, "exscan"),
            (20, "split"),
            (21, "duplicate"),
            (22, "inquiry"),
            (23, "revoke"),
            (24, "ready"),
            (32, "init"),
            (25, "answer"),
            (26, "leave"),
            (27, "matched"),
        ]
        .into();
        assert_eq!(codes.len(), known.len());
        assert_eq!(codes.into_iter().collect::<BTreeSet<_>>(), known);
        assert!(Kind::ALL.iter().all(|kind| Kind::from_code(*kind as u8) == Some(*kind)));
        assert_eq!((Kind::from_code(0), Kind::from_code(33)), (None, None));
    }

    #[test]
    fn control_frames_are_named_after_nothing_that_the_application_called() {
        for kind in Kind::ALL {
            let operation = kind.operation();
            assert_eq!(operation.kind(), Some(*kind), "each operation has frames of its own");
            assert_eq!(operation.class() == Class::Control, operation.standard().is_none() && *kind != Kind::Join);
        }
    }

    #[test]
    fn names_differ_and_are_read_back() {
        for operation in Operation::ALL {
            assert_eq!(operation.name().parse(), Ok(*operation));
        }
        assert_eq!(
            "rong".parse::<Collective>().map_err(|error| error.to_string()),
            Err("unknown collective \"rong\" (expected one of: barrier, broadcast, reduce, allreduce, gather, \
                 scatter, allgather, alltoall, reduce_scatter, scan, exscan)"
                .to_owned())
        );
    }

    #[test]
    fn an_operation_and_its_plan_agree_about_the_root() {
        for operation in Operation::ALL {
            if let Some(collective) = operation.collective() {
                assert_eq!(operation.has_root(), collective.has_root(), "{operation}");
                assert_eq!(operation.class(), Class::Collective, "{operation}");
            }
        }
        assert_eq!(Collective::ReduceScatter.operation(), Operation::ReduceScatterBlock);
    }
}
