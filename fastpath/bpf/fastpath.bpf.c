/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * The packet's path in the kernel, for flows between endpoints. Three programs at tc: `tenant` on every tenant port,
 * `underlay` on the underlay device, `tunnel` on the vxlan device that decapsulates GSO packets. New flows are decided by the
 * pipeline's compiled policy, or as it has decided before; what the programs do not know is punted. Requests for addresses
 * are answered as they were before. `take` and `recheck` are the daemon's.
 */
#include "recheck.h"
#include "take.h"
#include "tenant.h"
#include "underlay.h"

/* The helpers that read the clock ask for a licence that is compatible with the kernel's. */
char licence[] SEC("license") = "Dual MIT/GPL";
