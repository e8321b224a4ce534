//! Sets of ranks, and communicators made of them. MPI 3.1 §6.3 and §6.4.

use std::sync::Arc;

use crate::communicator::Communicator;
use crate::communicator::collective::{Elements, Nothing, Recipe, Spec};
use crate::communicator::waiting::Request;
use crate::engine::Engine;
use crate::error::{ErrorKind, Operation, Result};
use crate::proto::frame::{Envelope, Kind};
use crate::proto::rank::{Members, Slot};
use crate::schedule::{Apart, Collective, Connections};

/// An ordered set of processes. MPI 3.1 §6.3.
///
/// Sets of one group can be combined, whatever communicator they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(Arc<[Slot]>);

impl Group {
    /// Number of processes. MPI_Group_size.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// The processes at `ranks` of this set, in that order; those out of range are left out. MPI_Group_incl.
    #[must_use]
    pub fn include(&self, ranks: &[u32]) -> Self {
        Self::of(ranks.iter().filter_map(|rank| self.0.get(*rank as usize).copied()))
    }

    /// This set without those at `ranks`. MPI_Group_excl.
    #[must_use]
    pub fn exclude(&self, ranks: &[u32]) -> Self {
        Self::of(self.0.iter().zip(0..).filter(|(_, rank)| !ranks.contains(rank)).map(|(member, _)| *member))
    }

    /// This set, then those of `other` that it lacks. MPI_Group_union.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(other.0.iter()).copied())
    }

    /// Those of this set that are in `other`. MPI_Group_intersection.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self::of(self.0.iter().copied().filter(|member| other.0.contains(member)))
    }

    /// Those of this set that are not in `other`. MPI_Group_difference.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self::of(self.0.iter().copied().filter(|member| !other.0.contains(member)))
    }

    /// The rank in `other` of the process at `rank` of this set. MPI_Group_translate_ranks.
    pub fn translate(&self, rank: u32, other: &Self) -> Option<u32> {
        let member = self.0.get(rank as usize)?;
        other.0.iter().zip(0..).find(|(known, _)| *known == member).map(|(_, rank)| rank)
    }

    /// Keeps the first of each.
    fn of(members: impl Iterator<Item = Slot>) -> Self {
        let mut kept: Vec<Slot> = Vec::new();
        for member in members {
            if !kept.contains(&member) {
                kept.push(member);
            }
        }
        Self(kept.into())
    }
}

/// An identity that all members compute alike; not 0, which is that of the whole group.
fn identity(parent: u64, what: &str, number: u64, more: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("fmi communicator v1");
    hasher.update(&parent.to_be_bytes()).update(what.as_bytes()).update(&number.to_be_bytes()).update(more);
    let bytes: [u8; 8] = *hasher.finalize().as_bytes().first_chunk().expect("a hash is longer");
    u64::from_be_bytes(bytes).max(1)
}

impl Communicator {
    /// Its processes, in rank order. MPI 3.1 §6.3.2, MPI_Comm_group.
    pub fn group(&self) -> Group {
        Group(self.shared.members.slots().collect())
    }

    /// A communicator of the same ranks, whose operations never meet those of this one. All ranks call it; nothing
    /// is sent.
    ///
    /// # Errors
    /// [`ErrorKind::Revoked`].
    ///
    /// MPI 3.1 §6.4.2, MPI_Comm_dup.
    pub fn duplicate(&self) -> Result<Self> {
        self.shared.with(|engine| {
            if let Some(error) = engine.revocation(self.id, Operation::Duplicate) {
                return Err(error);
            }
            let sequence = engine.group.number(self.id);
            let signature = Envelope { communicator: self.id, sequence, ..Envelope::new(Kind::Duplicate) };
            engine.group.note(&signature);
            let id = identity(self.id, "duplicate", sequence, &[]);
            Ok(self.derived(engine, id, self.shared.members.clone(), self.connections.clone()))
        })
    }

    /// Splits the ranks by `color`: those with the same one form a communicator, in the order of `key` and then
    /// of their rank here. All ranks call it; who gives no color gets none.
    ///
    /// # Errors
    /// As a collective; [`ErrorKind::InvalidArgument`], on all members, if those of one color cannot reach each other
    /// over connections between them ([`Peers::Collectives`](crate::Peers::Collectives)).
    ///
    /// # Cancel safety
    /// Dropping the future revokes the communicator.
    ///
    /// MPI 3.1 §6.4.2, MPI_Comm_split.
    pub fn split(&self, color: Option<u32>, key: i64) -> Request<'static, Option<Self>> {
        let (comm, reserved) = (self.clone(), self.reserve(Operation::Split));
        Request::new(async move {
            let number = reserved.number();
            // Color plus one, so that 0 means none; the key in the order of unsigned numbers.
            let own = [color.map_or(0, |color| u64::from(color) + 1), key.cast_unsigned() ^ (1 << 63)];
            let mut all = vec![[0u64; 2]; comm.size as usize];
            let of = Elements::of::<[u64; 2]>();
            let spec = Spec::new(Kind::Split, of, Recipe::Chosen(comm.problem(Collective::Allgather, 0, 1, of)));
            let spec = Spec { elements: 1, send: 1, receive: Some(all.len()), ..spec };
            comm.launch_at(Some(reserved), Ok(spec), &[own], &mut all, Nothing).await?;
            if own[0] == 0 {
                return Ok(None);
            }
            let mut same: Vec<(u64, u32)> = all
                .iter()
                .zip(0..)
                .filter(|(theirs, _)| theirs[0] == own[0])
                .map(|(theirs, rank)| (theirs[1], rank))
                .collect();
            same.sort_unstable();
            let members = &comm.shared.members;
            let slots = same.iter().filter_map(|(_, rank)| members.rank(*rank)).map(|rank| members.slot(rank));
            let slots = slots.collect();
            let id = identity(comm.id, "split", number, &own[0].to_be_bytes());
            comm.made_of(Operation::Split, id, slots).map(Some)
        })
    }

    /// Makes a communicator of `group`. The members call it, with the same `tag`; nothing is sent. A rank outside
    /// the group gets none.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for an empty group, or one whose members cannot reach each other over connections
    /// between them ([`Peers::Collectives`](crate::Peers::Collectives)); [`ErrorKind::Revoked`].
    ///
    /// MPI 3.1 §6.4.2, MPI_Comm_create_group.
    pub fn create_group(&self, group: &Group, tag: u32) -> Result<Option<Self>> {
        if group.size() == 0 {
            let what = "the group has no members".to_owned();
            return Err(self.error(Operation::CreateGroup, ErrorKind::InvalidArgument(what)));
        }
        if let Some(stranger) = group.0.iter().find(|slot| self.shared.members.rank_of(**slot).is_none()) {
            let what = format!("process {stranger} of the group is not in this communicator");
            return Err(self.error(Operation::CreateGroup, ErrorKind::InvalidArgument(what)));
        }
        let me = self.shared.members.slot(self.shared.members.me());
        if !group.0.contains(&me) {
            return Ok(None);
        }
        let bytes: Vec<u8> = group.0.iter().flat_map(|member| member.get().to_be_bytes()).collect();
        let seed = identity(self.id, "group", u64::from(tag), &bytes);
        let number = self.shared.with(|engine| {
            if let Some(error) = engine.revocation(self.id, Operation::CreateGroup) {
                return Err(error);
            }
            let number = engine.created.entry(seed).or_default();
            *number += 1;
            Ok(*number)
        })?;
        let id = identity(seed, "group", number, &[]);
        self.made_of(Operation::CreateGroup, id, group.0.to_vec()).map(Some)
    }

    fn made_of(&self, operation: Operation, id: u64, slots: Vec<Slot>) -> Result<Self> {
        let connections = self.connections_of(operation, &slots)?;
        Ok(self.joining(id, slots, connections))
    }

    fn joining(&self, id: u64, slots: Vec<Slot>, connections: Connections) -> Self {
        let me = self.shared.members.slot(self.shared.members.me());
        let members = Members::part(me, slots).expect("this rank is a member, and each is one once");
        self.shared.with(|engine| self.derived(engine, id, members, connections))
    }

    /// How members are connected. All of them work it out alike, so all are refused together.
    fn connections_of(&self, operation: Operation, slots: &[Slot]) -> Result<Connections> {
        let (is_sparse, whole) = self.shared.with(|engine| (engine.sparse, engine.channels_max()));
        let Some(whole) = u32::try_from(whole).ok().filter(|_| is_sparse) else { return Ok(Connections::complete()) };
        let members: Vec<u32> = slots.iter().map(|slot| slot.get()).collect();
        Connections::of_members(whole, &members).map_err(|Apart { one, other }| {
            let (one, other) = (members[one as usize], members[other as usize]);
            let what = format!(
                "no connections between its members lead from rank {one} of the whole group to rank {other}: include \
                 rank 0, or let the group join with `peers` for all"
            );
            self.error(operation, ErrorKind::InvalidArgument(what))
        })
    }

    pub(super) fn derived(&self, engine: &mut Engine, id: u64, members: Members, connections: Connections) -> Self {
        engine.open(id, members.clone());
        let (rank, size) = (members.me().get(), members.size());
        let (shared, reproducible) = (self.shared.derived(id, members), self.reproducible);
        Self { shared, id, rank, size, connections, reproducible, within: self.within }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_ordered_sets() {
        let all = Group(Slot::all(6).collect());
        let numbers = |group: &Group| group.0.iter().map(|slot| slot.get()).collect::<Vec<_>>();
        let (even, low) = (all.include(&[4, 2, 0, 9]), all.include(&[0, 1, 2]));
        assert_eq!(numbers(&even), [4, 2, 0]);
        assert_eq!(numbers(&even.union(&low)), [4, 2, 0, 1]);
        assert_eq!(numbers(&even.intersection(&low)), [2, 0]);
        assert_eq!(numbers(&even.difference(&low)), [4]);
        assert_eq!(numbers(&all.exclude(&[0, 5])), [1, 2, 3, 4]);
        assert_eq!(even.translate(1, &low), Some(2));
        assert_eq!(even.translate(0, &low), None);
    }

    #[test]
    fn identities_differ_by_all_that_makes_them() {
        let ids = [
            identity(0, "split", 1, &[1]),
            identity(0, "split", 1, &[2]),
            identity(0, "split", 2, &[1]),
            identity(0, "duplicate", 1, &[1]),
            identity(1, "split", 1, &[1]),
        ];
        let distinct: std::collections::BTreeSet<u64> = ids.into_iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
