//! Somebody else's firewall, for tests of living beside it.

use std::net::Ipv4Addr;

use crate::error::Result;
use crate::netlink::{Message, NLM_F_APPEND, NLM_F_CREATE, Socket};
use crate::netns::Netns;
use crate::nft::{
    CHAIN_HOOK, CHAIN_TABLE, DEL_TABLE, FAMILY_INET, HOOK_NUMBER, NEW_CHAIN, NEW_ELEMENT, NEW_RULE,
    NEW_TABLE, RULE_TABLE, TABLE_NAME, commit_all, message,
};

/// A foreign nftables table of family `inet`.
#[derive(Debug)]
pub struct Firewall<'a> {
    /// Where it stands.
    pub namespace: &'a Netns,
    /// Its name.
    pub table: &'a str,
}

impl Firewall<'_> {
    /// Makes the table with a chain `postrouting` that masquerades everything, at the usual priority.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn masquerade(&self) -> Result<()> {
        let mut rule = message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, FAMILY_INET);
        rule.text(RULE_TABLE, self.table).text(2, "postrouting");
        rule.nest(4, |list| {
            list.nest(1, |e| _ = e.text(1, "masq").nest(2, |_| {}));
        });
        self.commit(&[
            self.new_table(),
            self.chain("postrouting", "nat", 4, 100, true),
            rule,
        ])
    }

    /// Makes the table with an empty chain `forward` whose policy is drop.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn drop_forwarded(&self) -> Result<()> {
        self.commit(&[self.new_table(), self.chain("forward", "filter", 2, 0, false)])
    }

    /// Appends to the chain `forward` what a network policy would put there: nothing may go to this port.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn refuse_port(&self, port: u16) -> Result<()> {
        let mut rule = message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, FAMILY_INET);
        rule.text(RULE_TABLE, self.table).text(2, "forward");
        rule.nest(4, |list| {
            let mut expression = |name: &str, fill: &dyn Fn(&mut Message)| {
                list.nest(1, |e| _ = e.text(1, name).nest(2, |e| fill(e)));
            };
            // The transport header's bytes 2 and 3.
            expression("payload", &|e| _ = e.be32(1, 1).be32(2, 2).be32(3, 2).be32(4, 2));
            expression("cmp", &|e| {
                e.be32(1, 1).be32(2, 0);
                e.nest(3, |data| _ = data.attribute(1, &port.to_be_bytes()));
            });
            expression("immediate", &|e| {
                e.be32(1, 0);
                e.nest(2, |data| _ = data.nest(2, |verdict| _ = verdict.be32(1, 0)));
            });
        });
        self.commit(&[rule])
    }

    /// Appends to the chain `forward` what ends many a firewall: a jump to the chain `rest`, which drops whatever
    /// comes.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn refuse_the_rest(&self) -> Result<()> {
        let mut rest = message(NEW_CHAIN, NLM_F_CREATE, FAMILY_INET);
        rest.text(CHAIN_TABLE, self.table).text(3, "rest");
        let rule = |chain: &str, code: i32, to: Option<&str>| {
            let mut rule = message(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, FAMILY_INET);
            rule.text(RULE_TABLE, self.table).text(2, chain);
            rule.nest(4, |list| {
                list.nest(1, |e| _ = e.text(1, "counter").nest(2, |_| {}));
                list.nest(1, |e| {
                    e.text(1, "immediate").nest(2, |e| {
                        e.be32(1, 0);
                        e.nest(2, |data| {
                            data.nest(2, |verdict| {
                                verdict.be32(1, code.cast_unsigned());
                                if let Some(chain) = to {
                                    verdict.text(2, chain);
                                }
                            });
                        });
                    });
                });
            });
            rule
        };
        self.commit(&[rest, rule("rest", 0, None), rule("forward", -3, Some("rest"))])
    }

    /// Puts the IPv4 range from `first` up to, but without, `end` into an interval set of the table.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn add_range(&self, set: &str, first: Ipv4Addr, end: Ipv4Addr) -> Result<()> {
        let mut m = message(NEW_ELEMENT, NLM_F_CREATE, FAMILY_INET);
        m.text(1, self.table).text(2, set);
        m.nest(3, |list| {
            for (address, flags) in [(first, 0), (end, 1)] {
                list.nest(1, |e| {
                    e.nest(1, |key| _ = key.attribute(1, &address.octets()))
                        .be32(3, flags);
                });
            }
        });
        self.commit(&[m])
    }

    /// Removes the table.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn remove(&self) -> Result<()> {
        let mut m = message(DEL_TABLE, 0, FAMILY_INET);
        m.text(TABLE_NAME, self.table);
        self.commit(&[m])
    }

    fn new_table(&self) -> Message {
        let mut m = message(NEW_TABLE, NLM_F_CREATE, FAMILY_INET);
        m.text(TABLE_NAME, self.table);
        m
    }

    fn chain(&self, name: &str, kind: &str, hook: u32, priority: u32, accept: bool) -> Message {
        let mut m = message(NEW_CHAIN, NLM_F_CREATE, FAMILY_INET);
        m.text(CHAIN_TABLE, self.table).text(3, name);
        m.nest(CHAIN_HOOK, |h| _ = h.be32(HOOK_NUMBER, hook).be32(2, priority));
        m.be32(5, u32::from(accept)).text(7, kind);
        m
    }

    fn commit(&self, messages: &[Message]) -> Result<()> {
        let mut socket = self.namespace.run(Socket::netfilter)??;
        commit_all(&mut socket, messages, &format!("change the table {}", self.table))
    }
}
