//! The stages of a model: networks that run one after the other, with native code between them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The purpose of one stage of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The network that reads the image. It is the first stage of every model, and the only stage of every
    /// model except Faster R-CNN.
    Network,
    /// The second stage of Faster R-CNN. It reads the feature maps of the first stage and the regions
    /// selected from its proposals, and writes class logits and box deltas for each region.
    BoxHead,
}

impl Role {
    /// Returns the name of the role in manifests and file names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::BoxHead => "box_head",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One stage of a model; `T` is its graph, its file or its recipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage<T> {
    /// The purpose of the stage.
    pub role: Role,
    /// Graph, file or recipe of the stage.
    pub content: T,
}

/// The stages of a model in the order in which they run. The first stage has the role
/// [`Role::Network`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stages<T> {
    network: T,
    later: Vec<Stage<T>>,
}

impl<T> Stages<T> {
    /// Creates the stages of a model with a single stage, `network`.
    pub fn new(network: T) -> Self {
        Self {
            network,
            later: Vec::new(),
        }
    }

    /// Appends a stage with the given role and content, which runs after the existing stages.
    #[must_use]
    pub fn with(mut self, role: Role, content: T) -> Self {
        self.later.push(Stage { role, content });
        self
    }

    /// Collects stages in order. Returns `None` unless exactly one stage, the first, has the role
    /// [`Role::Network`].
    pub fn from_list(stages: impl IntoIterator<Item = Stage<T>>) -> Option<Self> {
        let mut stages = stages.into_iter();
        let first = stages.next().filter(|stage| stage.role == Role::Network)?;
        let later: Vec<_> = stages.collect();
        let one_network = later.iter().all(|stage| stage.role != Role::Network);
        one_network.then_some(Self {
            network: first.content,
            later,
        })
    }

    /// Returns the content of the first stage.
    pub fn network(&self) -> &T {
        &self.network
    }

    /// Returns the content of the stage with `role`. `None` if the model has no such stage.
    pub fn get(&self, role: Role) -> Option<&T> {
        self.iter()
            .find(|stage| stage.role == role)
            .map(|stage| stage.content)
    }

    /// Iterates over the stages in order.
    pub fn iter(&self) -> impl Iterator<Item = Stage<&T>> {
        let Stages { network, later } = self.as_ref();
        let network = Stage {
            role: Role::Network,
            content: network,
        };
        std::iter::once(network).chain(later)
    }

    /// Returns the roles of the stages in order.
    pub fn roles(&self) -> Vec<Role> {
        self.iter().map(|stage| stage.role).collect()
    }

    /// Returns the same stages with references to their content.
    pub fn as_ref(&self) -> Stages<&T> {
        Stages {
            network: &self.network,
            later: self
                .later
                .iter()
                .map(|stage| Stage {
                    role: stage.role,
                    content: &stage.content,
                })
                .collect(),
        }
    }

    /// Applies `convert` to the role and content of every stage, in order, and returns stages with
    /// the results as their content.
    pub fn map<U>(self, mut convert: impl FnMut(Role, T) -> U) -> Stages<U> {
        let network = convert(Role::Network, self.network);
        let later = self.later.into_iter().map(|Stage { role, content }| Stage {
            role,
            content: convert(role, content),
        });
        Stages {
            network,
            later: later.collect(),
        }
    }

    /// Applies `convert` to the role and content of every stage, in order, and returns stages with
    /// the results as their content. Stops at the first error.
    ///
    /// # Errors
    /// The first error that `convert` returns.
    pub fn try_map<U, E>(
        self,
        mut convert: impl FnMut(Role, T) -> Result<U, E>,
    ) -> Result<Stages<U>, E> {
        let network = convert(Role::Network, self.network)?;
        let later = self.later.into_iter().map(|Stage { role, content }| {
            let content = convert(role, content)?;
            Ok(Stage { role, content })
        });
        Ok(Stages {
            network,
            later: later.collect::<Result<_, E>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(role: Role) -> Stage<&'static str> {
        Stage {
            role,
            content: role.as_str(),
        }
    }

    #[test]
    fn the_network_is_the_first_stage_and_the_only_one_of_its_role() {
        let both = [Role::Network, Role::BoxHead].map(stage);
        let stages = Stages::from_list(both).unwrap();
        assert_eq!(stages.roles(), [Role::Network, Role::BoxHead]);
        assert_eq!(stages.get(Role::BoxHead), Some(&"box_head"));
        assert_eq!(
            stages,
            Stages::new("network").with(Role::BoxHead, "box_head")
        );
        for wrong in [
            &[][..],
            &[Role::BoxHead],
            &[Role::BoxHead, Role::Network],
            &[Role::Network, Role::Network],
        ] {
            let list = wrong.iter().copied().map(stage);
            assert_eq!(Stages::from_list(list), None, "{wrong:?}");
        }
    }
}
