from tests.browser.test_rtc_faults import *
from tests.browser.test_rtc_faults import across, net, stack, file, begin
import sys, time
SPY = """
if (location.protocol === 'http:') {
 const t0 = Date.now(); const log = (...a) => console.log('SPY', new Date().toISOString().slice(17,23), ...a);
 window.addEventListener('online', () => log('online')); window.addEventListener('offline', () => log('offline'));
 navigator.connection && navigator.connection.addEventListener('change', () => log('conn change', navigator.connection.type, navigator.connection.rtt));
 let n = 0;
 window.RTCPeerConnection = class extends RTCPeerConnection {
   constructor(...v) { super(...v); const me = ++n; log('pc', me, 'made');
     this.addEventListener('connectionstatechange', () => log('pc', me, this.connectionState));
     this.addEventListener('iceconnectionstatechange', () => log('pc', me, 'ice', this.iceConnectionState));
     const w = (name) => { const o = super[name].bind(this); this[name] = (d, ...r) => { log('pc', me, name, d && d.type || d && d.iceRestart || ''); return o(d, ...r); }; };
     w('createOffer'); w('setLocalDescription'); w('setRemoteDescription'); w('addIceCandidate');
     const c = this.close.bind(this); this.close = () => { log('pc', me, 'CLOSE', new Error().stack.split('\\n')[2]); c(); };
   } };
 let last = '';
 setInterval(() => { const s = window.convergenceState; if (!s) return; const v = JSON.stringify([s.links.map((l) => [l.peer.slice(0,4), l.kind, l.state, l.reason, l.circuits]), s.circuits.map((c) => c.id + c.state + c.purpose), s.trouble, s.transfers.map((t) => [t.state, t.have])]); if (v !== last) { last = v; log(v); } }, 100);
}
"""
orig = Swarm.add
def add(self, browser, settings, script=""):
    p = orig(self, browser, settings, SPY + script)
    return p
Swarm.add = add

@pytest.mark.parametrize("host", ["left", "right"])
def test_move(across, net, file, host):
    swarm, reader, point, owner = across
    link = begin(swarm, reader, owner, file)
    for p in swarm.peers: p.logged.clear()
    print("MOVE", time.strftime("%S", time.gmtime()), time.time() % 60)
    net[host].move()
    try:
        reader.done(link)
        reader.page.wait_for_timeout(3000)
    finally:
        for name, p in zip(("reader", "point", "owner"), swarm.peers):
            print("=====", name, p.state["identity"][:4])
            for l in p.logged: print(l[:600])
