// What the service knows about bookings and messages. Every function takes a connection inside a transaction.
const BOOKING = `id, request_id, company_id, client_id, service_id, staff_id, starts_at, status, price, discount, total, comment, receipt_no,
  created_at, confirmed_at`;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const PHONE = /^\+[0-9]{7,15}$/;

export class BadRequest extends Error {}

/** Refuses what the database would refuse, with the field named. */
export function parseBooking(body) {
  const wanted = {
    request_id: [UUID.test(body?.request_id), "a UUID made by the client"],
    phone: [typeof body?.phone === "string" && PHONE.test(body.phone), "a phone number like +79990000000"],
    name: [typeof body?.name === "string" && body.name.length > 0 && body.name.length <= 200, "1 to 200 characters"],
    service_id: [Number.isInteger(body?.service_id), "an integer (see GET /api/catalog)"],
    staff_id: [Number.isInteger(body?.staff_id), "an integer (see GET /api/catalog)"],
    starts_at: [typeof body?.starts_at === "string" && !Number.isNaN(Date.parse(body.starts_at)), "an ISO 8601 time"],
    comment: [body?.comment === undefined || (typeof body.comment === "string" && body.comment.length <= 2000), "at most 2000 characters"],
  };
  for (const [field, [good, expected]] of Object.entries(wanted)) {
    if (!good) throw new BadRequest(`${field} must be ${expected}`);
  }
  return body;
}

export function parseLimit(text, fallback = 50) {
  if (text === undefined) return fallback;
  const limit = Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > 500) throw new BadRequest("limit must be a whole number from 1 to 500");
  return limit;
}

export async function create(client, companyId, booking) {
  // An accepted request is answered by reading alone, so also while the database refuses writes.
  const known = await client.query(`SELECT ${BOOKING} FROM public.bookings WHERE request_id = $1`, [booking.request_id]);
  if (known.rowCount === 1) return { created: false, booking: known.rows[0] };
  const values = [booking.request_id, companyId, booking.phone, booking.name, booking.service_id, booking.staff_id, booking.starts_at, booking.comment ?? null];
  const inserted = await client.query(
    `WITH person AS (
       INSERT INTO public.clients (company_id, phone, name) VALUES ($2, $3, $4)
       ON CONFLICT (company_id, phone) DO UPDATE SET name = excluded.name RETURNING id
     )
     INSERT INTO public.bookings (request_id, company_id, client_id, service_id, staff_id, starts_at, duration, price, comment)
     SELECT $1, $2, person.id, service.id, $6, $7, service.duration, service.price, $8
       FROM person, public.services AS service WHERE service.id = $5 AND service.company_id = $2
     ON CONFLICT (request_id) DO NOTHING RETURNING ${BOOKING}`,
    values,
  );
  if (inserted.rowCount === 1) return { created: true, booking: inserted.rows[0] };
  const { rows } = await client.query(`SELECT ${BOOKING} FROM public.bookings WHERE request_id = $1`, [booking.request_id]);
  if (rows.length === 0) throw new BadRequest("service_id does not exist");
  return { created: false, booking: rows[0] };
}

export async function list(client, limit) {
  const { rows } = await client.query(`SELECT ${BOOKING} FROM public.bookings ORDER BY id DESC LIMIT $1`, [limit]);
  return rows;
}

export async function byId(client, id) {
  if (!/^[0-9]{1,18}$/.test(id) && !UUID.test(id)) throw new BadRequest("id must be a number or a request id");
  const column = UUID.test(id) ? "request_id" : "id";
  const { rows } = await client.query(`SELECT ${BOOKING} FROM public.bookings WHERE ${column} = $1`, [id]);
  return rows[0];
}

export async function catalog(client) {
  const services = await client.query("SELECT id, title, duration::text, price FROM public.services WHERE is_active ORDER BY id LIMIT 200");
  const staff = await client.query("SELECT id, name, specialization FROM public.staff WHERE is_active ORDER BY id LIMIT 200");
  return { services: services.rows, staff: staff.rows };
}

/** Confirms one booking and writes its message. Doing it again changes nothing. Returns true when this call did it. */
export async function confirm(client, requestId) {
  const { rows } = await client.query(
    `UPDATE public.bookings AS b SET status = 'confirmed', confirmed_at = now() FROM public.clients AS c
      WHERE b.request_id = $1 AND b.confirmed_at IS NULL AND c.id = b.client_id
      RETURNING b.id, b.company_id, b.client_id, b.starts_at, b.receipt_no, c.phone, c.name`,
    [requestId],
  );
  if (rows.length === 0) return false;
  const { id, company_id, client_id, starts_at, receipt_no, phone, name } = rows[0];
  await client.query(
    `INSERT INTO public.messages (company_id, client_id, booking_id, phone, direction, body, payload, job_id)
     VALUES ($1, $2, $3, $4, 'outgoing', $5, $6, $7) ON CONFLICT (job_id) DO NOTHING`,
    [company_id, client_id, id, phone, `${name}, запись подтверждена ✅ ${starts_at.toISOString()} (№ ${receipt_no})`,
      JSON.stringify({ type: "confirmation", booking_id: id, to: `${phone.slice(1)}@s.whatsapp.net` }), `confirm-${requestId}`],
  );
  return true;
}

/** Recent bookings whose job may have been lost with a queue. */
export async function unconfirmed(client, olderThanSeconds) {
  const { rows } = await client.query(
    `SELECT request_id FROM public.bookings WHERE confirmed_at IS NULL AND status = 'pending'
        AND created_at BETWEEN now() - interval '1 hour' AND now() - make_interval(secs => $1) ORDER BY created_at LIMIT 500`,
    [olderThanSeconds],
  );
  return rows.map((row) => row.request_id);
}

export async function messages(client, limit) {
  const { rows } = await client.query(
    "SELECT id, client_id, booking_id, phone, direction, body, payload, created_at FROM public.messages ORDER BY id DESC LIMIT $1",
    [limit],
  );
  return rows;
}

export async function addMessage(client, companyId, body) {
  if (typeof body?.phone !== "string" || !PHONE.test(body.phone)) throw new BadRequest("phone must be a phone number like +79990000000");
  if (typeof body.body !== "string" || body.body.length === 0) throw new BadRequest("body must be a text");
  const { rows } = await client.query(
    `INSERT INTO public.messages (company_id, client_id, phone, direction, body, payload)
     SELECT $1, (SELECT id FROM public.clients WHERE company_id = $1 AND phone = $2), $2, 'incoming', $3, $4
     RETURNING id, phone, direction, body, created_at`,
    [companyId, body.phone, body.body, JSON.stringify(body.payload ?? { type: "text" })],
  );
  return rows[0];
}
