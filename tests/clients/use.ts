// Calls the running service with the generated client.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { paths } from "./entitlements.js";

const [url, key] = process.argv.slice(2);
const client = createClient<paths>({
  baseUrl: url ?? "",
  headers: { Authorization: `Bearer ${key}` },
});
const somebody = { user_id: "teacher-ts", org_id: "school-ts" };

const given = await client.POST("/v1/admin/credits/adjust", {
  body: { subject_type: "org", subject_id: "school-ts", amount: 500, reason: "autumn term" },
});
assert.equal(given.data?.new_balance, 500);

const checked = await client.POST("/v1/entitlements/check-credits/bulk", {
  body: { ...somebody, requirements: { cj_comparison: 45 } },
});
assert.equal(checked.data?.per_metric["cj_comparison"]?.source, "org");

const work = {
  body: { ...somebody, metric: "cj_comparison", amount: 45, correlation_id: "batch-ts" },
  params: { header: { "Idempotency-Key": "batch-ts" } },
};
const charged = await client.POST("/v1/entitlements/consume-credits", work);
const repeated = await client.POST("/v1/entitlements/consume-credits", work);
assert.deepEqual(
  [charged.data?.consumed_from, charged.data?.replayed, repeated.data?.replayed],
  ["org", false, true],
);

const held = await client.POST("/v1/entitlements/holds", { body: { ...somebody, credits: 50 } });
assert(held.data !== undefined);
const settled = await client.POST("/v1/entitlements/holds/{hold_id}/settle", {
  params: { path: { hold_id: held.data.hold_id } },
  body: { credits: 30 },
});
assert.equal(settled.data?.returned, 20);

const balance = await client.GET("/v1/entitlements/balance/{user_id}", {
  params: { path: { user_id: "teacher-ts" }, query: { org_id: "school-ts" } },
});
assert.equal(balance.data?.org_available, 425);

const listed = await client.GET("/v1/admin/credits/operations", {
  params: { query: { correlation_id: "batch-ts", kind: "consume" } },
});
assert.deepEqual(
  listed.data?.operations.map((operation) => [operation.kind, operation.balance_after]),
  [["consume", 455]],
);

const denied = await client.POST("/v1/entitlements/check-credits/bulk", {
  body: { user_id: "stranger", requirements: { cj_comparison: 45 } },
});
assert.equal(denied.response.status, 402);
assert(denied.error !== undefined && "denial_reason" in denied.error);
assert.equal(denied.error.denial_reason, "insufficient_credits");

const refused = await client.POST("/v1/admin/credits/adjust", {
  body: { subject_type: "org", subject_id: "school-ts", amount: 0, reason: "nothing" },
});
assert.equal(refused.error?.code, "validation_failed");
