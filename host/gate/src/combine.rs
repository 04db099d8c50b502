//! Combining algorithms (after XACML 3.0, appendix C, reduced to allow, deny and transform). Pure.
//!
//! Whatever the algorithm, a policy that the host had to end denies the whole chain, and a chain in which no enforced policy
//! applies denies.

use casemate_types::{Decision, Obligation, PluginName, Reason};

/// How the decisions of a chain become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Combining {
    /// Any denial denies; obligations of all others add up.
    DenyOverrides,
    /// A boolean expression over policy names; a policy is true when it does not deny.
    Expression(Expression),
    /// The first policy decides.
    FirstApplicable,
    /// Any permission permits, with the obligations of all that permit; otherwise the first denial.
    PermitOverrides,
}

/// A boolean expression over policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// All of them.
    And(Vec<Expression>),
    /// Not this one.
    Not(Box<Expression>),
    /// Any of them.
    Or(Vec<Expression>),
    /// The policy of this name does not deny.
    Policy(PluginName),
}

/// One enforced policy's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vote {
    /// Whose.
    pub policy: PluginName,
    /// Its decision; a refusal by the host is a denial with `failed` set.
    pub decision: Decision,
    /// The host had to end the policy.
    pub failed: bool,
}

/// The chain's word and the policy that settled it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combined {
    /// What holds.
    pub decision: Decision,
    /// Which policy settled it, if one did.
    pub policy: Option<PluginName>,
}

impl Combining {
    /// Parses the `combining` key of `site.toml`. An expression names every enforced policy and no other: one that it left out
    /// would be asked and not heard, and one that only monitors has no vote.
    pub fn parse(text: &str, enforced: &[PluginName]) -> Result<Self, String> {
        match text {
            "deny-overrides" => Ok(Self::DenyOverrides),
            "first-applicable" => Ok(Self::FirstApplicable),
            "permit-overrides" => Ok(Self::PermitOverrides),
            _ => {
                let expression = Parser::new(text, enforced).parse()?;
                match enforced.iter().find(|policy| !expression.names(policy)) {
                    Some(forgotten) => {
                        Err(format!("leaves out `{forgotten}`, which is enforced; name it, or let it monitor"))
                    }
                    None => Ok(Self::Expression(expression)),
                }
            }
        }
    }

    /// Combines the votes of the policies that apply, in chain order.
    pub fn combine(&self, votes: &[Vote]) -> Combined {
        if let Some(failed) = votes.iter().find(|vote| vote.failed) {
            return settled(failed);
        }
        if votes.is_empty() {
            return Combined { decision: no_policy(), policy: None };
        }
        match self {
            Self::DenyOverrides => match votes.iter().find(|vote| denies(vote)) {
                Some(denial) => settled(denial),
                None => all(votes),
            },
            Self::PermitOverrides => match (permits(votes).as_slice(), votes.first()) {
                ([], Some(denial)) => settled(denial),
                ([], None) => Combined { decision: no_policy(), policy: None },
                (permits, _) => all(permits),
            },
            Self::FirstApplicable => match votes.first() {
                Some(vote) => settled(vote),
                None => Combined { decision: no_policy(), policy: None },
            },
            Self::Expression(expression) => match expression.holds(votes) {
                Some(true) => all(&permits(votes)),
                Some(false) => match votes.iter().find(|vote| denies(vote)) {
                    Some(denial) => settled(denial),
                    None => Combined {
                        decision: deny("expression-not-met", "The site's combination of policies does not allow this."),
                        policy: None,
                    },
                },
                None => Combined { decision: no_policy(), policy: None },
            },
        }
    }
}

fn denies(vote: &Vote) -> bool {
    matches!(vote.decision, Decision::Deny { .. })
}

fn permits(votes: &[Vote]) -> Vec<Vote> {
    votes.iter().filter(|vote| !denies(vote)).cloned().collect()
}

fn settled(vote: &Vote) -> Combined {
    Combined { decision: vote.decision.clone(), policy: Some(vote.policy.clone()) }
}

/// Nobody denies: the obligations of all, or a plain permission.
fn all(votes: &[Vote]) -> Combined {
    let mut obligations: Vec<Obligation> = Vec::new();
    let mut policy = None;
    for vote in votes {
        if let Decision::Transform { obligations: more } = &vote.decision {
            obligations.extend(more.iter().cloned());
            policy.get_or_insert_with(|| vote.policy.clone());
        }
    }
    if obligations.is_empty() {
        Combined { decision: Decision::Allow, policy: votes.first().map(|v| v.policy.clone()) }
    } else {
        Combined { decision: Decision::Transform { obligations }, policy }
    }
}

fn no_policy() -> Decision {
    Decision::Deny { reason: Reason::no_policy(), message: "No policy decides on this; nothing is allowed.".to_owned() }
}

fn deny(reason: &str, message: &str) -> Decision {
    Decision::Deny { reason: Reason::from_policy(reason), message: message.to_owned() }
}

impl Expression {
    fn names(&self, policy: &PluginName) -> bool {
        match self {
            Self::Policy(name) => name == policy,
            Self::Not(inner) => inner.names(policy),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.names(policy)),
        }
    }

    /// Policies that do not apply in this phase drop out. Where nothing is left there is no answer, and no answer is no permission.
    fn holds(&self, votes: &[Vote]) -> Option<bool> {
        match self {
            Self::Policy(name) => votes.iter().find(|vote| vote.policy == *name).map(|vote| !denies(vote)),
            Self::Not(inner) => inner.holds(votes).map(|value| !value),
            Self::And(parts) => parts.iter().filter_map(|part| part.holds(votes)).reduce(|all, part| all && part),
            Self::Or(parts) => parts.iter().filter_map(|part| part.holds(votes)).reduce(|any, part| any || part),
        }
    }
}

/// Recursive descent: `or := and ("||" and)*`, `and := unit ("&&" unit)*`, `unit := "!" unit | "(" or ")" | name`.
struct Parser<'a> {
    rest: &'a str,
    policies: &'a [PluginName],
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, policies: &'a [PluginName]) -> Self {
        Self { rest: text.trim(), policies, depth: 0 }
    }

    fn parse(mut self) -> Result<Expression, String> {
        let expression = self.or()?;
        if self.rest.is_empty() { Ok(expression) } else { Err(format!("unexpected `{}`", self.rest)) }
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.and()?];
        while self.take("||") {
            parts.push(self.and()?);
        }
        Ok(single(parts, Expression::Or))
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut parts = vec![self.unit()?];
        while self.take("&&") {
            parts.push(self.unit()?);
        }
        Ok(single(parts, Expression::And))
    }

    fn unit(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > 64 {
            return Err("nested more than 64 deep".to_owned());
        }
        let unit = if self.take("!") {
            Expression::Not(Box::new(self.unit()?))
        } else if self.take("(") {
            let inner = self.or()?;
            if !self.take(")") {
                return Err("a `(` is not closed".to_owned());
            }
            inner
        } else {
            self.name()?
        };
        self.depth -= 1;
        Ok(unit)
    }

    fn name(&mut self) -> Result<Expression, String> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        if name.is_empty() {
            return Err(format!("expected a policy name before `{}`", self.rest));
        }
        self.rest = rest.trim_start();
        match self.policies.iter().find(|policy| policy.as_str() == name) {
            Some(policy) => Ok(Expression::Policy(policy.clone())),
            None => Err(format!("`{name}` is neither an algorithm nor a policy of the chain")),
        }
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }
}

fn single(mut parts: Vec<Expression>, many: impl FnOnce(Vec<Expression>) -> Expression) -> Expression {
    if parts.len() == 1 { parts.remove(0) } else { many(parts) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use casemate_types::LogLevel;

    fn vote(policy: &str, decision: Decision) -> Vote {
        Vote { policy: policy.parse().unwrap(), decision, failed: false }
    }
    fn allow(policy: &str) -> Vote {
        vote(policy, Decision::Allow)
    }
    fn denial(policy: &str) -> Vote {
        vote(policy, deny(policy, "no"))
    }
    fn log(policy: &str) -> Vote {
        vote(policy, Decision::Transform { obligations: vec![Obligation::LogAt { level: LogLevel::Alert }] })
    }
    /// The policies that `combining` names; all of them where it is an algorithm.
    fn policies(combining: &str) -> Vec<PluginName> {
        let named = |name: &&&str| combining.contains("-") || combining.contains(**name);
        ["a", "b", "c"].iter().filter(named).map(|n| n.parse().unwrap()).collect()
    }
    fn permitted(combining: &str, votes: &[Vote]) -> bool {
        let combined = Combining::parse(combining, &policies(combining)).unwrap().combine(votes);
        !matches!(combined.decision, Decision::Deny { .. })
    }

    #[test]
    fn deny_overrides_in_any_order_and_names_the_denier() {
        for votes in [[allow("a"), denial("b")], [denial("b"), allow("a")]] {
            let combined = Combining::DenyOverrides.combine(&votes);
            assert_eq!(combined.policy.unwrap().as_str(), "b");
        }
        assert!(permitted("deny-overrides", &[allow("a"), allow("b")]));
    }

    #[test]
    fn obligations_add_up() {
        let combined = Combining::DenyOverrides.combine(&[allow("a"), log("b"), log("c")]);
        assert!(matches!(&combined.decision, Decision::Transform { obligations } if obligations.len() == 2));
        assert_eq!(combined.policy.unwrap().as_str(), "b");
    }

    #[test]
    fn permit_overrides_and_first_applicable() {
        assert!(permitted("permit-overrides", &[denial("a"), allow("b")]));
        assert!(!permitted("permit-overrides", &[denial("a"), denial("b")]));
        assert!(!permitted("first-applicable", &[denial("a"), allow("b")]));
        assert!(permitted("first-applicable", &[allow("a"), denial("b")]));
    }

    /// A permission that comes first must not let what another would have masked out in clear.
    #[test]
    fn permit_overrides_keeps_the_obligations_of_every_permit() {
        for combining in ["permit-overrides", "a || b || c"] {
            let combining = Combining::parse(combining, &policies("a b c")).unwrap();
            let combined = combining.combine(&[allow("a"), log("b"), denial("c")]);
            assert!(matches!(&combined.decision, Decision::Transform { obligations } if obligations.len() == 1));
        }
    }

    #[test]
    fn a_failed_policy_denies_under_every_algorithm() {
        let failed = Vote { failed: true, ..denial("a") };
        for combining in ["deny-overrides", "permit-overrides", "first-applicable", "a || b", "!a && b"] {
            assert!(!permitted(combining, &[allow("b"), failed.clone()]), "{combining}");
        }
    }

    #[test]
    fn no_policy_denies_under_every_algorithm() {
        for combining in ["deny-overrides", "permit-overrides", "first-applicable", "a || b"] {
            let combined = Combining::parse(combining, &policies(combining)).unwrap().combine(&[]);
            assert!(matches!(combined.decision, Decision::Deny { reason, .. } if reason == Reason::no_policy()));
        }
    }

    #[test]
    fn expressions() {
        assert!(permitted("a && (b || c)", &[allow("a"), denial("b"), allow("c")]));
        assert!(!permitted("a && (b || c)", &[allow("a"), denial("b"), denial("c")]));
        assert!(permitted("a && !b", &[allow("a"), denial("b")]));
        // A policy that does not apply drops out; alone it is no permission, not even negated.
        assert!(permitted("a && b", &[allow("a")]));
        assert!(!permitted("a && b", &[denial("a")]));
        assert!(permitted("a || b", &[allow("a")]));
        assert!(!permitted("a || b", &[denial("a")]));
        assert!(permitted("a && !b", &[allow("a")]));
        for alone in ["b", "!b", "b && !b", "b || b"] {
            let combined = Combining::parse(alone, &policies(alone)).unwrap().combine(&[allow("a")]);
            assert!(matches!(combined.decision, Decision::Deny { reason, .. } if reason == Reason::no_policy()));
        }
    }

    #[test]
    fn an_enforced_policy_that_the_expression_leaves_out_is_named() {
        let enforced: Vec<PluginName> = ["a", "b"].iter().map(|n| n.parse().unwrap()).collect();
        assert!(Combining::parse("a || (a && !b)", &enforced).is_ok());
        assert!(Combining::parse("a", &enforced).unwrap_err().contains("`b`"));
    }

    #[test]
    fn malformed_expressions_are_refused() {
        // Each leaves out nothing, so only its form can be wrong.
        let enforced: Vec<PluginName> = vec!["a".parse().unwrap()];
        assert!(Combining::parse("(a)", &enforced).is_ok());
        for text in ["", "a &&", "a a", "(a", "a)", "a && unknown", "a | a", &"(".repeat(1000)] {
            let error = Combining::parse(text, &enforced).unwrap_err();
            assert!(!error.contains("leaves out"), "{text}: {error}");
        }
    }
}
