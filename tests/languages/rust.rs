// SPDX-License-Identifier: Apache-2.0
//! A transport in Rust without bindgen: the part of the plugin ABI that it needs is written out by
//! hand. Peers are other open transports of this process, and submit copies at once. Here to show
//! that the ABI serves other languages, not for use.
//!
//!     rustc --edition 2021 --crate-type cdylib -C panic=abort rust.rs

#![allow(non_camel_case_types)]

use std::ffi::CStr;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Mutex;

// ---- the ABI, as in ferry/status.h, plugin.h and transport_plugin.h ------------------------------

type ferry_status = i32;
const FERRY_OK: ferry_status = 0;
const FERRY_EAGAIN: ferry_status = -1;
const FERRY_EINVAL: ferry_status = -2;
const FERRY_ENOTSUP: ferry_status = -4;
const FERRY_ERANGE: ferry_status = -7;
const FERRY_EACCESS: ferry_status = -21;
const FERRY_EUNREACH: ferry_status = -40;
const FERRY_ECONNRESET: ferry_status = -41;

const CAP_READ: u32 = 1 << 0;
const CAP_WRITE: u32 = 1 << 1;
const CAP_LOOPBACK: u32 = 1 << 5;
const CAP_MANUAL: u32 = 1 << 6;
const ACCESS_LOCAL_WRITE: u32 = 1 << 0;
const ACCESS_REMOTE_READ: u32 = 1 << 1;
const ACCESS_REMOTE_WRITE: u32 = 1 << 2;
const MEM_HOST: u32 = 0;
const KV_TEXT: u32 = 1;
const OP_READ: u32 = 0;
const OP_WRITE: u32 = 1;

#[repr(C)]
struct ferry_plugin_hdr {
    magic: u32,
    abi_major: u16,
    abi_minor: u16,
    size: u32,
    reserved: u32,
    name: *const c_char,
    version: *const c_char,
}

#[repr(C)]
struct ferry_kv {
    key: *const c_char,
    val: *const c_void,
    val_len: u32,
    flags: u32,
}

#[repr(C)]
struct ferry_kvs {
    v: *const ferry_kv,
    n: usize,
}

#[repr(C)]
struct ferry_kv_sink {
    put: extern "C" fn(*mut ferry_kv_sink, *const ferry_kv) -> ferry_status,
}

#[repr(C)]
struct ferry_region {
    opaque: *mut c_void,
    kind: u32,
    device: i32,
}

/// Up to what is used here.
#[repr(C)]
struct ferry_host {
    size: u32,
    abi_major: u16,
    abi_minor: u16,
    log_level: *const c_int,
    log: *const c_void,
    peer_call: *const c_void,
    region_get: extern "C" fn(*const ferry_host, u64, u64, u32, *mut ferry_region) -> ferry_status,
    region_put: extern "C" fn(*const ferry_host, *mut ferry_region),
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct ferry_tp_caps {
    size: u32,
    flags: u32,
    local_mem: u32,
    remote_mem: u32,
    max_xfer_len: u64,
    max_list: u32,
    max_queues: u32,
    n_devices: u32,
    addr_align: u32,
    latency_ns: u32,
    bandwidth_bps: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ferry_device {
    size: u32,
    numa_node: i32,
    bandwidth_bps: u64,
    name: [u8; 64],
    pci: [u8; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ferry_mem_desc {
    size: u32,
    kind: u32,
    addr: *mut u8,
    len: u64,
    device: i32,
    dmabuf_fd: i32,
    dmabuf_off: u64,
    access: u32,
    reserved: u32,
}

#[repr(C)]
struct ferry_queue_attr {
    size: u32,
    device: u32,
    depth: u32,
    priority: u32,
}

#[repr(C)]
struct ferry_xfer {
    mr: *mut ferry_mr,
    rmem: *mut ferry_rmem,
    local: *mut u8,
    remote_off: u64,
    len: u64,
}

#[repr(C)]
struct ferry_list {
    size: u32,
    op: u32,
    peer: *mut ferry_peer,
    v: *const ferry_xfer,
    n: u32,
    first: u32,
    cookie: u64,
    flags: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct ferry_comp {
    cookie: u64,
    first: u32,
    n: u32,
    status: ferry_status,
    vendor_err: i32,
    bytes: u64,
}

/// As of ABI 1.0. Optional members are `None`.
#[repr(C)]
struct ferry_transport_ops {
    size: u32,
    reserved: u32,
    probe: Option<extern "C" fn(*const ferry_host) -> ferry_status>,
    open: extern "C" fn(*const ferry_host, *const ferry_kvs, *mut *mut ferry_tp) -> ferry_status,
    close: extern "C" fn(*mut ferry_tp),
    query: extern "C" fn(*mut ferry_tp, *mut ferry_tp_caps) -> ferry_status,
    device: extern "C" fn(*mut ferry_tp, u32, *mut ferry_device) -> ferry_status,
    export_segment: extern "C" fn(*mut ferry_tp, *mut ferry_kv_sink) -> ferry_status,
    on_call: Option<extern "C" fn()>,
    mem_reg: extern "C" fn(*mut ferry_tp, *const ferry_mem_desc, usize, *mut *mut ferry_mr) -> ferry_status,
    mem_dereg: extern "C" fn(*mut ferry_tp, *const *mut ferry_mr, usize),
    export_mem: extern "C" fn(*mut ferry_mr, *mut ferry_kv_sink) -> ferry_status,
    peer_open: extern "C" fn(*mut ferry_tp, *const c_char, *const ferry_kvs, *mut *mut ferry_peer) -> ferry_status,
    peer_attach: extern "C" fn(*mut ferry_peer, *mut ferry_queue, u32) -> ferry_status,
    peer_close: extern "C" fn(*mut ferry_peer),
    rmem_open: extern "C" fn(*mut ferry_peer, u64, u64, *const ferry_kvs, *mut *mut ferry_rmem) -> ferry_status,
    rmem_close: extern "C" fn(*mut ferry_rmem),
    queue_open: extern "C" fn(*mut ferry_tp, *const ferry_queue_attr, *mut *mut ferry_queue) -> ferry_status,
    queue_close: extern "C" fn(*mut ferry_queue),
    submit: extern "C" fn(*mut ferry_queue, *const ferry_list, *mut u32) -> ferry_status,
    poll: extern "C" fn(*mut ferry_queue, *mut ferry_comp, u32) -> i32,
    cancel: Option<extern "C" fn()>,
    queue_fd: Option<extern "C" fn()>,
    queue_arm: Option<extern "C" fn()>,
    strerror_vendor: Option<extern "C" fn()>,
}

#[repr(C)]
pub struct ferry_transport_plugin {
    hdr: ferry_plugin_hdr,
    ops: *const ferry_transport_ops,
}

unsafe impl Sync for ferry_transport_plugin {}
unsafe impl Sync for ferry_transport_ops {}

// ---- the transport -------------------------------------------------------------------------------

const MAX_QUEUES: usize = 32;
const MAX_LEN: u64 = 1 << 40;
const TOKEN: &[u8] = b"rust_token\0";

struct ferry_tp {
    host: *const ferry_host,
    token: String,
    queue_used: [bool; MAX_QUEUES],
}

struct ferry_mr {
    desc: ferry_mem_desc,
}

struct ferry_rmem {
    peer: *mut ferry_peer,
    addr: u64,
    len: u64,
}

struct ferry_peer {
    token: Vec<u8>,
    attached: [bool; MAX_QUEUES],
    rmems: Vec<*mut ferry_rmem>,
}

struct ferry_queue {
    tp: *mut ferry_tp,
    number: usize,
    ring: Vec<ferry_comp>,
    head: usize,
    used: usize,
}

/// The transports that are open. Its lock guards everything else as well.
struct Open(Vec<*mut ferry_tp>, u64);
unsafe impl Send for Open {}
static OPEN: Mutex<Open> = Mutex::new(Open(Vec::new(), 0));

fn locked() -> std::sync::MutexGuard<'static, Open> {
    OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Open {
    fn find(&self, token: &[u8]) -> Option<&ferry_tp> {
        self.0.iter().map(|tp| unsafe { &**tp }).find(|tp| tp.token.as_bytes() == token)
    }
}

unsafe fn slice<'a, T>(at: *const T, n: usize) -> &'a [T] {
    if n == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(at, n)
    }
}

/// What a caller with an older, shorter struct has room for; `size` comes first in both.
unsafe fn give<T>(to: *mut T, mut value: T) -> ferry_status {
    let n = (*to.cast::<u32>()).min(std::mem::size_of::<T>() as u32);

    if n < 4 {
        return FERRY_EINVAL;
    }
    *(&mut value as *mut T).cast::<u32>() = n;
    std::ptr::copy_nonoverlapping((&value as *const T).cast::<u8>(), to.cast(), n as usize);
    FERRY_OK
}

extern "C" fn tp_open(host: *const ferry_host, config: *const ferry_kvs, out: *mut *mut ferry_tp) -> ferry_status {
    unsafe {
        if !config.is_null() {
            for kv in slice((*config).v, (*config).n) {
                if !CStr::from_ptr(kv.key).to_bytes().starts_with(b"core.") {
                    return FERRY_EINVAL;
                }
            }
        }
        let mut open = locked();
        open.1 += 1;
        let token = open.1.to_string();
        *out = Box::into_raw(Box::new(ferry_tp { host, token, queue_used: [false; MAX_QUEUES] }));
        open.0.push(*out);
    }
    FERRY_OK
}

extern "C" fn tp_close(tp: *mut ferry_tp) {
    if tp.is_null() {
        return;
    }
    locked().0.retain(|one| *one != tp);
    drop(unsafe { Box::from_raw(tp) });
}

extern "C" fn tp_query(_: *mut ferry_tp, caps: *mut ferry_tp_caps) -> ferry_status {
    let have = ferry_tp_caps {
        flags: CAP_READ | CAP_WRITE | CAP_LOOPBACK | CAP_MANUAL,
        local_mem: 1 << MEM_HOST,
        remote_mem: 1 << MEM_HOST,
        max_xfer_len: MAX_LEN,
        max_list: 1024,
        max_queues: MAX_QUEUES as u32,
        n_devices: 1,
        addr_align: 1,
        ..Default::default()
    };
    unsafe { give(caps, have) }
}

extern "C" fn tp_device(_: *mut ferry_tp, index: u32, dev: *mut ferry_device) -> ferry_status {
    let mut have = ferry_device { size: 0, numa_node: -1, bandwidth_bps: 0, name: [0; 64], pci: [0; 16] };

    if index != 0 {
        return FERRY_EINVAL;
    }
    have.name[..4].copy_from_slice(b"rust");
    unsafe { give(dev, have) }
}

extern "C" fn export_segment(tp: *mut ferry_tp, out: *mut ferry_kv_sink) -> ferry_status {
    unsafe {
        let token = &(*tp).token;
        let kv = ferry_kv {
            key: TOKEN.as_ptr().cast(),
            val: token.as_ptr().cast(),
            val_len: token.len() as u32,
            flags: KV_TEXT,
        };
        ((*out).put)(out, &kv)
    }
}

extern "C" fn mem_reg(_: *mut ferry_tp, desc: *const ferry_mem_desc, n: usize, out: *mut *mut ferry_mr) -> ferry_status {
    unsafe {
        let mut fresh = Vec::with_capacity(n);

        for i in 0..n {
            let step = (*desc).size as usize; // a newer core's are longer
            let one = *desc.cast::<u8>().add(i * step).cast::<ferry_mem_desc>();

            if step < std::mem::size_of::<ferry_mem_desc>() || one.addr.is_null() || one.len == 0 {
                return FERRY_EINVAL;
            }
            if one.kind != MEM_HOST {
                return FERRY_ENOTSUP;
            }
            fresh.push(Box::new(ferry_mr { desc: one }));
        }
        for (i, mr) in fresh.into_iter().enumerate() {
            *out.add(i) = Box::into_raw(mr);
        }
    }
    FERRY_OK
}

extern "C" fn mem_dereg(_: *mut ferry_tp, mr: *const *mut ferry_mr, n: usize) {
    for one in unsafe { slice(mr, n) } {
        drop(unsafe { Box::from_raw(*one) });
    }
}

extern "C" fn export_mem(_: *mut ferry_mr, _: *mut ferry_kv_sink) -> ferry_status {
    FERRY_OK // addresses are all that it takes inside one process
}

extern "C" fn peer_open(
    _: *mut ferry_tp, _: *const c_char, attrs: *const ferry_kvs, out: *mut *mut ferry_peer,
) -> ferry_status {
    unsafe {
        for kv in slice((*attrs).v, (*attrs).n) {
            if CStr::from_ptr(kv.key).to_bytes_with_nul() == TOKEN {
                let token = slice(kv.val.cast::<u8>(), kv.val_len as usize).to_vec();
                *out = Box::into_raw(Box::new(ferry_peer { token, attached: [false; MAX_QUEUES], rmems: Vec::new() }));
                return FERRY_OK;
            }
        }
    }
    FERRY_EINVAL
}

extern "C" fn peer_attach(peer: *mut ferry_peer, queue: *mut ferry_queue, _: u32) -> ferry_status {
    let open = locked();
    let (peer, queue) = unsafe { (&mut *peer, &*queue) };

    if open.find(&peer.token).is_none() {
        return if peer.attached[queue.number] { FERRY_ECONNRESET } else { FERRY_EUNREACH };
    }
    peer.attached[queue.number] = true;
    FERRY_OK
}

extern "C" fn peer_close(peer: *mut ferry_peer) {
    if peer.is_null() {
        return;
    }
    let _open = locked(); // nobody copies meanwhile
    let peer = unsafe { Box::from_raw(peer) };
    for rmem in &peer.rmems {
        drop(unsafe { Box::from_raw(*rmem) });
    }
}

extern "C" fn rmem_open(
    peer: *mut ferry_peer, addr: u64, len: u64, _: *const ferry_kvs, out: *mut *mut ferry_rmem,
) -> ferry_status {
    if len == 0 || addr.checked_add(len - 1).is_none() {
        return FERRY_EINVAL;
    }
    let _open = locked();
    let rmem = Box::into_raw(Box::new(ferry_rmem { peer, addr, len }));
    unsafe {
        (*peer).rmems.push(rmem);
        *out = rmem;
    }
    FERRY_OK
}

extern "C" fn rmem_close(rmem: *mut ferry_rmem) {
    if rmem.is_null() {
        return;
    }
    let _open = locked();
    unsafe {
        (*(*rmem).peer).rmems.retain(|one| *one != rmem);
        drop(Box::from_raw(rmem));
    }
}

extern "C" fn queue_open(tp: *mut ferry_tp, attr: *const ferry_queue_attr, out: *mut *mut ferry_queue) -> ferry_status {
    unsafe {
        if ((*attr).size as usize) < std::mem::size_of::<ferry_queue_attr>() || (*attr).device != 0 {
            return FERRY_EINVAL;
        }
        let _open = locked();
        let number = match (*tp).queue_used.iter().position(|used| !used) {
            Some(number) => number,
            None => return FERRY_ERANGE,
        };
        let depth = if (*attr).depth == 0 { 1024 } else { (*attr).depth.min(1024) };
        (*tp).queue_used[number] = true;
        let ring = vec![ferry_comp::default(); depth as usize];
        *out = Box::into_raw(Box::new(ferry_queue { tp, number, ring, head: 0, used: 0 }));
    }
    FERRY_OK
}

extern "C" fn queue_close(queue: *mut ferry_queue) {
    if queue.is_null() {
        return;
    }
    let _open = locked();
    let queue = unsafe { Box::from_raw(queue) };
    unsafe { (*queue.tp).queue_used[queue.number] = false };
}

fn within(at: u64, len: u64, room: u64) -> bool {
    at <= room && len <= room - at
}

unsafe fn check(list: &ferry_list, x: &ferry_xfer) -> ferry_status {
    if x.mr.is_null() || x.rmem.is_null() || (*x.rmem).peer != list.peer || x.len == 0 {
        return FERRY_EINVAL;
    }
    let desc = &(*x.mr).desc;
    let at = (x.local as u64).wrapping_sub(desc.addr as u64);
    if x.len > MAX_LEN || !within(at, x.len, desc.len) || !within(x.remote_off, x.len, (*x.rmem).len) {
        return FERRY_ERANGE;
    }
    if list.op == OP_READ && desc.access & ACCESS_LOCAL_WRITE == 0 {
        return FERRY_EACCESS;
    }
    FERRY_OK
}

/// Asks the target's core, as a server over a wire would.
unsafe fn copy(target: Option<&ferry_tp>, op: u32, x: &ferry_xfer) -> ferry_status {
    let host = match target {
        Some(target) => &*target.host,
        None => return FERRY_ECONNRESET,
    };
    let at = (*x.rmem).addr + x.remote_off;
    let right = if op == OP_READ { ACCESS_REMOTE_READ } else { ACCESS_REMOTE_WRITE };
    let mut region = ferry_region { opaque: null_mut(), kind: 0, device: 0 };
    let status = (host.region_get)(host, at, x.len, right, &mut region);

    if status != FERRY_OK {
        return status;
    }
    let (from, to) = if op == OP_READ { (at as *const u8, x.local) } else { (x.local as *const u8, at as *mut u8) };
    std::ptr::copy(from, to, x.len as usize);
    (host.region_put)(host, &mut region);
    FERRY_OK
}

extern "C" fn submit(queue: *mut ferry_queue, list: *const ferry_list, accepted: *mut u32) -> ferry_status {
    unsafe {
        let (queue, list) = (&mut *queue, &*list);

        *accepted = 0;
        if (list.size as usize) < std::mem::size_of::<ferry_list>() || list.op > OP_WRITE || list.flags != 0
            || list.peer.is_null()
        {
            return FERRY_EINVAL;
        }
        let open = locked();
        if !(&(*list.peer).attached)[queue.number] {
            return FERRY_EINVAL;
        }
        let target = open.find(&(*list.peer).token);
        for (i, x) in slice(list.v, list.n as usize).iter().enumerate() {
            let status = match check(list, x) {
                FERRY_OK if queue.used == queue.ring.len() => FERRY_EAGAIN,
                status => status,
            };
            if status != FERRY_OK {
                return status;
            }
            let status = copy(target, list.op, x);
            let slot = (queue.head + queue.used) % queue.ring.len();
            queue.ring[slot] = ferry_comp {
                cookie: list.cookie,
                first: list.first + i as u32,
                n: 1,
                status,
                vendor_err: 0,
                bytes: if status == FERRY_OK { x.len } else { 0 },
            };
            queue.used += 1;
            *accepted = i as u32 + 1;
        }
    }
    FERRY_OK
}

extern "C" fn poll(queue: *mut ferry_queue, comp: *mut ferry_comp, max: u32) -> i32 {
    let _open = locked();
    let queue = unsafe { &mut *queue };
    let n = (max as usize).min(queue.used);

    for i in 0..n {
        unsafe { *comp.add(i) = queue.ring[queue.head] };
        queue.head = (queue.head + 1) % queue.ring.len();
    }
    queue.used -= n;
    n as i32
}

static OPS: ferry_transport_ops = ferry_transport_ops {
    size: std::mem::size_of::<ferry_transport_ops>() as u32,
    reserved: 0,
    probe: None,
    open: tp_open,
    close: tp_close,
    query: tp_query,
    device: tp_device,
    export_segment,
    on_call: None,
    mem_reg,
    mem_dereg,
    export_mem,
    peer_open,
    peer_attach,
    peer_close,
    rmem_open,
    rmem_close,
    queue_open,
    queue_close,
    submit,
    poll,
    cancel: None,
    queue_fd: None,
    queue_arm: None,
    strerror_vendor: None,
};

#[no_mangle]
pub static ferry_transport_plugin: ferry_transport_plugin = ferry_transport_plugin {
    hdr: ferry_plugin_hdr {
        magic: 0x31595246,
        abi_major: 1,
        abi_minor: 0,
        size: std::mem::size_of::<ferry_transport_plugin>() as u32,
        reserved: 0,
        name: b"rust\0".as_ptr() as *const c_char,
        version: b"1.0.0\0".as_ptr() as *const c_char,
    },
    ops: &OPS,
};

const _: () = assert!(std::mem::size_of::<ferry_xfer>() == 40 && std::mem::size_of::<ferry_comp>() == 32);
