// What the token may do, as the daemon says it. What it may not is not offered, and would be refused.

const ORDER = ["read", "operate", "administer"];

let role = null;
let tenants = null;

export function setRole(told) {
  role = told?.role ?? null;
  tenants = told?.tenants ?? null;
}

/** Whether the token's role allows what `wanted` allows. */
export const may = (wanted) => role !== null && ORDER.indexOf(role) >= ORDER.indexOf(wanted);

/** Whether it is confined to some tenants, and is told no counts of the whole host. */
export const isConfined = () => tenants !== null;

/** The role's name, as it stands in the head of the page */
export const roleLabel = () => `${role ?? "read"}${tenants ? ` · ${tenants.join(", ")}` : ""}`;

const SAYS = { read: "may look", operate: "may look and operate", administer: "may look, operate and administer" };

/** In words: `may look, of acme alone` */
export const roleText = () => `${SAYS[role ?? "read"] ?? role}${tenants ? `, of ${tenants.join(", ")} alone` : ""}`;
