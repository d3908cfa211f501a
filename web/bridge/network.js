/**
 * Does: tell that this machine may be on another network than before.
 * Does not: tell it always. Browsers notice when they are online again, and on phones another kind of network.
 */

/**
 * @param {() => void} moved
 * @returns {() => void} stops it
 */
export function watchNetwork(moved) {
  const { connection } = navigator;
  let type = connection?.type;
  const changed = () => {
    if (connection.type === type) return; // only its speed has changed
    type = connection.type;
    moved();
  };
  addEventListener("online", moved);
  connection?.addEventListener("change", changed);
  return () => {
    removeEventListener("online", moved);
    connection?.removeEventListener("change", changed);
  };
}
