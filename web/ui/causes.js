/**
 * What people are told of addresses, circuits and connections: the codes that programs of others meet, too.
 *
 * Does: hold a table from these codes to words, and one from EndReasons.
 * Does not: have words for what only our own page does (messages.js).
 */

const PARTS = { first: "first", second: "second" };
export const because = (detail) => {
  const text = String(detail ?? "").replace(/\.$/, "");
  return text ? `: ${text}` : "";
};
const difference = (ahead) => {
  const minutes = Math.max(1, Math.round(Math.abs(ahead) / 60));
  const parts = [
    [Math.floor(minutes / 1440), "d"],
    [Math.floor(minutes / 60) % 24, "h"],
    [minutes % 60, "min"],
  ];
  const text = parts.filter(([number]) => number).map(([number, unit]) => `${number} ${unit}`);
  return `${text.join(" ")} ${ahead > 0 ? "ahead of" : "behind"}`;
};
const noCircuit = (why) => `No circuit could be built: ${why}`;

/** @type {Record<string, string | ((values: object) => string)>} */
export const CAUSES = {
  "link-none": "There is no link here. Paste the link you were given.",
  "link-several": "There is more than one link here. Take one of them.",
  "link-cut": "The link has no part after a # sign: it was cut. Copy the whole link.",
  "link-half": "The link is incomplete: its second half, after a dot, is missing. Copy the whole link.",
  "link-part-short": ({ part }) => `The ${PARTS[part]} part of the link is incomplete. Copy the whole link.`,
  "link-part-long": ({ part }) =>
    `The ${PARTS[part]} part of the link is too long or holds characters that do not belong in it. ` +
    "Copy the whole link.",
  "link-part-altered": ({ part }) => `The ${PARTS[part]} part of the link was altered. Ask for the link again.`,
  "link-service": "This is the address of a service, not the link of a file.",
  "address-none": "There is no address here: give hash:NAME, tcp://HOST:PORT or a private address.",
  "address-host": "This is no host and port: it should look like tcp://example.org:443",
  "address-name-none": "The name of the service is missing: it should look like hash:my service",
  "address-name-long": ({ most }) => `The name of the service is too long: it may have ${most} bytes.`,
  "address-characters": "The name of the service has characters that do not belong in it.",
  "address-file": "This is the link of a file, not the address of a service.",
  "address-key": "The name before .key.conv is not the key of a service: copy the whole name.",
  "address-secret": "Only its owner can serve this address.",
  "address-served": "This address is served already.",
  "limit-services": ({ most }) => `No more than ${most} services can be offered or used at once.`,
  "limit-connections": ({ most }) => `No more than ${most} connections to one service can be open at once: end some.`,
  "few-relays": ({ needed, known }) => noCircuit(`${needed} relays are needed, ${known} are known.`),
  "out-of-reach": ({ known, schemes, rtc }) => {
    const ways = schemes.split(" ").map((scheme) => `a ${scheme}:// address`);
    if (rtc) ways.push("WebRTC");
    return noCircuit(`of ${known} known relays none can be reached from here: it takes ${ways.join(" or ")}.`);
  },
  "no-entry": noCircuit("no relay is known that may be the entry here."),
  "no-path": noCircuit(
    "no path leads through the relays that are known. One is needed that has an address and speaks WebRTC too.",
  ),
  "nodes-silent": noCircuit("nobody told in time which nodes there are."),
  "not-direct": noCircuit("the node cannot be reached directly."),
  "no-exit": "No exit is known that could fetch this: the network needs a node with the role exit.",
  "entry-silent": noCircuit("the first relay of the path could not be reached."),
  "relay-silent": noCircuit("a relay of the path did not answer."),
  "no-consensus": noCircuit("there is no list of Tor's relays that is still valid."),
  "few-descriptors": ({ known, needed }) =>
    noCircuit(`too few of Tor's relays are known. They allow ${known} % of all paths, ${needed} % are needed.`),
  "no-guard-descriptor": noCircuit("the keys of the relay that circuits begin with are not known yet."),
  "no-tor-entry": "No node of this network leads into the Tor network: try again later, or use another site.",
  "no-tor-point": "No meeting point of this network can be reached through Tor: switch Tor off, or use another site.",
  "facilitator-lost": ({ detail }) => `The connection to the facilitator was lost${because(detail)}.`,
  "facilitator-unreachable": ({ detail }) => `The facilitator cannot be reached${because(detail)}.`,
  "facilitator-silent": "The facilitator does not answer.",
  "facilitator-unusable": ({ detail }) => `The facilitator's answer cannot be used${because(detail)}.`,
  "facilitator-refuses": ({ detail }) => `The facilitator refuses${because(detail)}.`,
  "facilitator-not-reached": "The facilitator cannot reach this node at its address, so others are not told of it.",
  "facilitator-newcomers": ({ percent }) =>
    `Unusually many nodes join just now, so each does some work before others are told of it: about ${percent} % of ` +
    "yours is done. Your node can be used meanwhile.",
  "facilitator-leaves-out": "The facilitator says that it lists this node, and shows others a network without it.",
  "facilitator-old": "The facilitator shows this device an old state of the network, not the present one.",
  "facilitator-contradicts":
    "The facilitator contradicts itself: it has shown others another network, or somebody has its key.",
  "facilitator-false-value":
    "The facilitator did not draw today's random value as it had announced: it has chosen which nodes meet whom, or somebody has its key.",
  "facilitator-hides-draw":
    "The facilitator does not show how today's random value was drawn: it may have chosen which nodes meet whom.",
  "facilitator-clock": ({ ahead }) => `This device's clock is ${difference(ahead)} the network's. Set it.`,
  "connect-nobody": "Nobody offers this service now: check the address, or try again when its owner is online.",
  "connect-busy": "The service takes no more connections now: try again later.",
  "connect-misled": "Whoever answers for this address cannot prove to be its owner: ask for the address again.",
  "connect-no-points": "No meeting point of this service can be reached: check your connection.",
  "connect-timeout": "The service did not answer in time: try again.",
  "connect-stopped": "This node is stopping.",
  defect: ({ name }) =>
    `The node met an error of its own (${name}) and may not go on well. Reload the page to start it afresh.`,
};

/** Why a connection broke, by EndReason. */
export const ENDS = {
  2: "There is no such host: check the address.",
  3: "What the far side leads to takes no connection: it may not be running.",
  4: "No exit allows this address: try another one.",
  5: "The path through the network broke: try again.",
  6: "The far side closed the connection before it said that it was done.",
  7: "The far side did not answer in time.",
  8: "The far side cannot reach it.",
  9: "The far side is resting: try again later.",
  11: "The far side is too busy: try again later.",
  12: "The far side cut the connection.",
  13: "What came was not what the far side sent: the connection was ended.",
};
