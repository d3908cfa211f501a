/*
 * A Bitcoin full node on a chain of its own (regtest): `node full.js HOST:PORT | - [--blocks N] [--control HOST:PORT]`.
 *
 * Does: mine N blocks; serve them to whoever connects, or to the one at stdin and stdout; pay from what it mined.
 * Events: ready {address, height, hash, port}, peer, tx {txid}, closed, error {message}.
 * Commands: `mine N`, whose event is mined {height, hash}; `pay ADDRESS SATOSHI`, whose event is tx.
 * Does not: connect to anybody.
 */

import { ALONE, bcoin, blocks, obey, overStdio, spend, stdio, tell, tellError, where } from "./rig.js";

const ring = bcoin.KeyRing.generate(true, "regtest");
const address = ring.getAddress().toString("regtest");
const node = new bcoin.FullNode({
  ...ALONE,
  listen: !overStdio,
  bip37: true, // Bloom filters, which SPV nodes ask for
  coinbaseAddress: [address],
});
let spent = 0;

async function mine(count) {
  for (let mined = 0; mined < count; mined++) {
    const job = await node.miner.cpu.createJob();
    await node.chain.add(await job.mineAsync());
  }
  return { height: node.chain.height, hash: node.chain.tip.rhash() };
}

/** From the oldest reward that is not spent: there have to be 100 blocks since. */
async function pay(address, value) {
  const block = await node.chain.getBlock(++spent);
  const coin = bcoin.Coin.fromTX(block.txs[0], 0, spent);
  await node.sendTX(await spend(ring, coin, address, Number(value)));
}

Object.assign(node.pool.options, where); // as an option of the node, port 0 (any) would be refused
node.on("error", tellError);
node.on("tx", (tx) => tell("tx", { txid: tx.txid() }));
node.pool.on("peer open", () => tell("peer"));
await node.open();
const tip = await mine(blocks);
await node.connect();
tell("ready", { address, ...tip, port: node.pool.server.address()?.port });
if (overStdio) node.pool.server.emit("connection", stdio()); // as if it had been accepted
await obey({ mine: async (count) => tell("mined", await mine(Number(count))), pay });
