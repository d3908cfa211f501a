/*
 * A Bitcoin node that keeps block headers and its own transactions only (simplified payment verification, BIP 37):
 * `node spv.js HOST:PORT | - [--control HOST:PORT]`.
 *
 * Does: sync from the node at that address, again when it was lost, or from the one at stdin and stdout; watch an address.
 * Events: ready {address}, peer, block {height, hash}, tx {txid, value} of what pays that address, closed,
 * sent {txid}, error {message}.
 * Commands: `pay ADDRESS SATOSHI`, from what the last such transaction brought, whose event is sent.
 * Does not: connect to anybody else, nor mine.
 */

import { ALONE, bcoin, obey, overStdio, spend, stdio, tell, tellError, where } from "./rig.js";

const ring = bcoin.KeyRing.generate(true, "regtest");
const node = new bcoin.SPVNode({
  ...ALONE,
  only: [overStdio ? "127.0.0.1:1" : `${where.host}:${where.port}`], // with stdio a name only: see connected
  createSocket: overStdio ? connected : undefined,
});
let coin = null;

function connected() {
  const socket = stdio();
  setImmediate(() => socket.emit("connect"));
  return socket;
}

function received(tx) {
  const index = tx.outputs.findIndex((output) => ring.ownOutput(output));
  if (index < 0) return; // the filter lets through some that are not ours
  coin = bcoin.Coin.fromTX(tx, index, -1);
  tell("tx", { txid: tx.txid(), value: coin.value });
}

async function pay(address, value) {
  if (!coin) throw new Error("nothing to pay with: no transaction came yet");
  const tx = await spend(ring, coin, address, Number(value));
  coin = null;
  tell("sent", { txid: tx.txid() });
  await node.sendTX(tx);
}

node.on("error", tellError);
node.on("tx", received);
node.on("connect", (entry) => tell("block", { height: entry.height, hash: entry.rhash() }));
node.pool.on("peer open", () => tell("peer"));
if (!overStdio) node.pool.on("peer close", (_, known) => known && tell("closed"));
await node.open();
node.pool.watchAddress(ring.getAddress());
tell("ready", { address: ring.getAddress().toString("regtest") });
await node.connect();
node.startSync();
await obey({ pay });
