/*
 * What the two Bitcoin nodes of the rig have in common.
 *
 * Does: load bcoin so that it needs no compiled code; tell events and take commands, a line each; make a socket for bcoin
 * of stdin and stdout.
 * Does not: know what either node is for.
 */

import { createRequire } from "node:module";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { Duplex } from "node:stream";
import { parseArgs } from "node:util";

process.env.NODE_BACKEND = "js"; // bcoin and its packages read this while they load
const require = createRequire(import.meta.url);
export const bcoin = require("bcoin");
// Milliseconds. Nodes announce transactions late, every 5 s, to hide where one began: tests are not to wait for that.
require("bcoin/lib/net/peer").INV_INTERVAL = 100;

const USAGE = "HOST:PORT | - [--blocks N] [--control HOST:PORT]";
const options = { blocks: { type: "string", default: "0" }, control: { type: "string" } };
const { values, positionals } = parseArgs({ options, allowPositionals: true });

/** "-" in place of an address: the far side is at stdin and stdout already. */
export const overStdio = positionals[0] === "-";
export const where = overStdio ? {} : address(positionals[0]);
export const blocks = Number(values.blocks);

/** Whoever runs the rig, at --control; else the terminal. Stdout is never used: it may be the connection. */
const control = values.control ? connect(address(values.control)) : null;
const told = control ?? process.stderr;

/** For bcoin: a chain of our own in memory, and nobody to connect to. Its API cannot be left out: any port will do. */
export const ALONE = { network: "regtest", memory: true, httpPort: 0, seeds: [] };

/** Satoshi per 1,000 bytes that a transaction pays. */
const RATE = 10_000;

function address(text = "") {
  const [, host, port] = /^(.+):(\d+)$/.exec(text) ?? [];
  if (host) return { host, port: Number(port) };
  console.error(`usage: node full.js|spv.js ${USAGE}`);
  process.exit(2);
}

/** Write one event: a line of JSON. */
export function tell(event, fields = {}, written = () => {}) {
  told.write(`${JSON.stringify({ event, ...fields })}\n`, written);
}

export function tellError({ message }) {
  tell("error", { message });
}

/**
 * Run a command for each line, one after the other, for ever: `{ name: async (...words) => {} }`. What fails is an error
 * event. The end of the lines ends the process: whoever ran the rig is gone.
 */
export async function obey(commands) {
  const input = control ?? (overStdio ? null : process.stdin);
  if (!input) return;
  for await (const line of createInterface({ input })) {
    const [name, ...words] = line.trim().split(/\s+/);
    try {
      if (!Object.hasOwn(commands, name)) throw new Error(`no command ${name}`);
      await commands[name](...words);
    } catch (error) {
      tellError(error);
    }
  }
  process.exit();
}

/**
 * Stdin and stdout as the one connection of this process, with what bcoin asks of a net.Socket.
 *
 * Its end is the end of the process, as with inetd's servers: exit code 0, or 1 after an error.
 */
export function stdio() {
  const socket = Duplex.from({ readable: process.stdin, writable: process.stdout });
  socket.on("end", () => socket.destroy());
  socket.on("error", (error) => {
    process.exitCode = 1;
    tellError(error);
  });
  socket.on("close", () => tell("closed", {}, () => process.exit()));
  return Object.assign(socket, { remoteAddress: "127.0.0.1", remotePort: 1, setNoDelay() {} });
}

/** A signed transaction that spends `coin` of `ring`: `value` satoshi to `address`, the rest back. */
export async function spend(ring, coin, address, value) {
  const made = new bcoin.MTX();
  made.addOutput({ address: bcoin.Address.fromString(address, "regtest"), value });
  await made.fund([coin], { rate: RATE, changeAddress: ring.getAddress() });
  made.sign(ring);
  return made.toTX();
}
