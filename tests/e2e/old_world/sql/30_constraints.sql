-- Keys, indexes, functions, triggers, policies and grants, after the rows.
SET ROLE postgres;

-- A value added later sorts before one that was there: its order is not its creation order.
ALTER TYPE public.booking_status ADD VALUE 'rescheduled' BEFORE 'cancelled';

ALTER TABLE public.companies ADD PRIMARY KEY (id);
ALTER TABLE public.company_members ADD PRIMARY KEY (company_id, user_id);
ALTER TABLE public.clients ADD PRIMARY KEY (id), ADD CONSTRAINT clients_company_phone_key UNIQUE (company_id, phone);
ALTER TABLE public.services ADD PRIMARY KEY (id);
ALTER TABLE public.staff ADD PRIMARY KEY (id);
ALTER TABLE public.schedules ADD PRIMARY KEY (id);
ALTER TABLE public.bookings ADD PRIMARY KEY (id), ADD CONSTRAINT bookings_request_id_key UNIQUE (request_id);
ALTER TABLE public.messages ADD PRIMARY KEY (id), ADD CONSTRAINT messages_job_id_key UNIQUE (job_id);
ALTER TABLE public.dialog_contexts ADD PRIMARY KEY (id);
ALTER TABLE public.whatsapp_auth ADD PRIMARY KEY (company_id);
ALTER TABLE public.whatsapp_keys ADD PRIMARY KEY (company_id, key_type, key_id);

ALTER TABLE public.company_members
  ADD FOREIGN KEY (company_id) REFERENCES public.companies ON DELETE CASCADE,
  ADD FOREIGN KEY (user_id) REFERENCES auth.users ON DELETE CASCADE;
ALTER TABLE public.clients ADD FOREIGN KEY (company_id) REFERENCES public.companies;
ALTER TABLE public.services ADD FOREIGN KEY (company_id) REFERENCES public.companies;
ALTER TABLE public.staff ADD FOREIGN KEY (company_id) REFERENCES public.companies;
ALTER TABLE public.schedules
  ADD FOREIGN KEY (staff_id) REFERENCES public.staff ON DELETE CASCADE,
  ADD CONSTRAINT schedules_hours_check CHECK (opens < closes),
  ADD CONSTRAINT schedules_no_overlap EXCLUDE USING gist (staff_id WITH =, works WITH &&);
ALTER TABLE public.bookings
  ADD FOREIGN KEY (company_id) REFERENCES public.companies,
  ADD FOREIGN KEY (client_id) REFERENCES public.clients,
  ADD FOREIGN KEY (service_id) REFERENCES public.services,
  ADD FOREIGN KEY (staff_id) REFERENCES public.staff,
  ADD CONSTRAINT bookings_price_check CHECK (price >= 0 AND discount BETWEEN 0 AND price),
  ADD CONSTRAINT bookings_duration_check CHECK (duration > interval '0');
ALTER TABLE public.messages ADD FOREIGN KEY (company_id) REFERENCES public.companies;
ALTER TABLE public.messages ADD FOREIGN KEY (client_id) REFERENCES public.clients ON DELETE SET NULL;
-- Added to a table in use and never validated, as it happens.
ALTER TABLE public.messages ADD CONSTRAINT messages_booking_id_fkey FOREIGN KEY (booking_id) REFERENCES public.bookings ON DELETE SET NULL NOT VALID;

CREATE INDEX bookings_company_starts_idx ON public.bookings (company_id, starts_at DESC);
CREATE INDEX bookings_client_idx ON public.bookings (client_id);
CREATE INDEX bookings_unconfirmed_idx ON public.bookings (created_at) WHERE confirmed_at IS NULL AND status = 'pending';
CREATE INDEX messages_phone_idx ON public.messages (phone, created_at DESC);
CREATE INDEX messages_booking_idx ON public.messages (booking_id) WHERE booking_id IS NOT NULL;
CREATE INDEX messages_payload_idx ON public.messages USING gin (payload jsonb_path_ops);
CREATE INDEX clients_name_trgm_idx ON public.clients USING gin (name extensions.gin_trgm_ops);
CREATE INDEX clients_email_lower_idx ON public.clients (lower(email));
CREATE INDEX clients_tags_idx ON public.clients USING gin (tags);
CREATE UNIQUE INDEX dialog_contexts_phone_idx ON public.dialog_contexts (company_id, phone);
CREATE INDEX whatsapp_keys_value_idx ON public.whatsapp_keys USING gin (value);
CREATE STATISTICS public.bookings_service_staff (dependencies) ON service_id, staff_id FROM public.bookings;

ALTER TABLE flights.airlines ADD PRIMARY KEY (carrier);
ALTER TABLE flights.airports ADD PRIMARY KEY (faa);
ALTER TABLE flights.planes ADD PRIMARY KEY (tailnum);
CREATE INDEX flights_time_hour_idx ON flights.flights (time_hour);
CREATE INDEX weather_time_hour_idx ON flights.weather (origin, time_hour);
ALTER TABLE flights.flights ADD FOREIGN KEY (carrier) REFERENCES flights.airlines;
COMMENT ON COLUMN flights.flights.dep_delay IS 'Minutes; a negative value is an early departure; NULL was cancelled.';

CREATE FUNCTION public.set_updated_at() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  NEW.updated_at = now();
  RETURN NEW;
END $$;
-- Counts what happens here: rows brought by a copy are counted already and must not fire it again.
CREATE FUNCTION public.count_booking() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
  UPDATE public.clients SET booking_count = booking_count + 1 WHERE id = NEW.client_id;
  RETURN NULL;
END $$;
CREATE TRIGGER companies_updated_at BEFORE UPDATE ON public.companies FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER clients_updated_at BEFORE UPDATE ON public.clients FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER bookings_updated_at BEFORE UPDATE ON public.bookings FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER whatsapp_keys_updated_at BEFORE UPDATE ON public.whatsapp_keys FOR EACH ROW EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER bookings_count AFTER INSERT ON public.bookings FOR EACH ROW EXECUTE FUNCTION public.count_booking();

CREATE FUNCTION public.current_company() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT (auth.jwt() ->> 'company_id')::bigint
$$;
CREATE FUNCTION public.company_revenue(company bigint, first_day date, last_day date) RETURNS numeric LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(total), 0) FROM public.bookings
   WHERE company_id = company AND status IN ('arrived', 'completed') AND starts_at >= first_day AND starts_at < last_day + 1
$$;
CREATE VIEW public.upcoming_bookings WITH (security_invoker = true) AS
  SELECT b.id, b.company_id, b.starts_at, b.status, c.name AS client, s.title AS service, w.name AS staff
    FROM public.bookings b
    JOIN public.clients c ON c.id = b.client_id
    JOIN public.services s ON s.id = b.service_id
    JOIN public.staff w ON w.id = b.staff_id
   WHERE b.starts_at > now() AND b.status IN ('pending', 'confirmed');

-- Row level security: members see their company, the application sees the company of its claims.
ALTER TABLE public.companies ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.company_members ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.clients ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.services ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.staff ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.schedules ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.bookings ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.dialog_contexts ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.whatsapp_auth ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.whatsapp_keys ENABLE ROW LEVEL SECURITY;

CREATE POLICY "Members see themselves" ON public.company_members FOR SELECT TO authenticated USING (user_id = (SELECT auth.uid()));
CREATE POLICY "Members see their company" ON public.companies FOR SELECT TO authenticated
  USING (id IN (SELECT m.company_id FROM public.company_members m WHERE m.user_id = (SELECT auth.uid())));
CREATE POLICY "Owners change their company" ON public.companies FOR UPDATE TO authenticated
  USING (EXISTS (SELECT FROM public.company_members m WHERE m.company_id = id AND m.user_id = (SELECT auth.uid()) AND m.member_role = 'owner'))
  WITH CHECK (true);
CREATE POLICY "Members work with clients" ON public.clients TO authenticated
  USING (company_id IN (SELECT m.company_id FROM public.company_members m WHERE m.user_id = (SELECT auth.uid())));
CREATE POLICY "Members work with bookings" ON public.bookings TO authenticated
  USING (company_id IN (SELECT m.company_id FROM public.company_members m WHERE m.user_id = (SELECT auth.uid())));
CREATE POLICY "Members read messages" ON public.messages FOR SELECT TO authenticated
  USING (company_id IN (SELECT m.company_id FROM public.company_members m WHERE m.user_id = (SELECT auth.uid())));
CREATE POLICY "Everybody sees services" ON public.services FOR SELECT TO anon, authenticated USING (is_active);
CREATE POLICY "Everybody sees staff" ON public.staff FOR SELECT TO anon, authenticated USING (is_active);
CREATE POLICY app_companies ON public.companies FOR SELECT TO booking_app USING (id = (SELECT public.current_company()));
CREATE POLICY app_clients ON public.clients TO booking_app USING (company_id = (SELECT public.current_company()));
CREATE POLICY app_services ON public.services FOR SELECT TO booking_app USING (company_id = (SELECT public.current_company()));
CREATE POLICY app_staff ON public.staff FOR SELECT TO booking_app USING (company_id = (SELECT public.current_company()));
CREATE POLICY app_schedules ON public.schedules FOR SELECT TO booking_app USING (true);
CREATE POLICY app_bookings ON public.bookings TO booking_app USING (company_id = (SELECT public.current_company()));
CREATE POLICY app_messages ON public.messages TO booking_app USING (company_id = (SELECT public.current_company()));
CREATE POLICY app_dialogs ON public.dialog_contexts TO booking_app USING (company_id = (SELECT public.current_company()));
CREATE POLICY app_whatsapp_auth ON public.whatsapp_auth TO booking_app USING (company_id = (SELECT public.current_company())::text);
CREATE POLICY app_whatsapp_keys ON public.whatsapp_keys TO booking_app USING (company_id = (SELECT public.current_company())::text);

-- Grants: what the default privileges gave and is not wanted goes; the application gets what it uses, some of it by column.
REVOKE ALL ON public.whatsapp_auth, public.whatsapp_keys, public.dialog_contexts FROM anon, authenticated;
REVOKE ALL ON public.services, public.staff, public.clients, public.messages FROM anon;
GRANT SELECT (id, title, category, duration, price, is_active) ON public.services TO anon;
GRANT SELECT (id, name, specialization, is_active) ON public.staff TO anon;
GRANT USAGE ON SCHEMA public, auth, extensions TO booking_app;
GRANT SELECT ON public.companies, public.services, public.staff, public.schedules, public.upcoming_bookings TO booking_app;
GRANT SELECT, INSERT, DELETE ON public.bookings, public.clients TO booking_app;
GRANT UPDATE (status, starts_at, duration, staff_id, discount, comment, confirmed_at) ON public.bookings TO booking_app;
GRANT UPDATE (name, email, birthday, tags, notes) ON public.clients TO booking_app;
GRANT SELECT, INSERT ON public.messages TO booking_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.dialog_contexts, public.whatsapp_auth, public.whatsapp_keys TO booking_app;
GRANT USAGE ON SEQUENCE public.receipt_numbers TO booking_app;
GRANT EXECUTE ON FUNCTION public.company_revenue(bigint, date, date) TO booking_app;
REVOKE EXECUTE ON FUNCTION public.company_revenue(bigint, date, date) FROM PUBLIC, anon;
GRANT USAGE ON SCHEMA flights TO service_role, authenticated;
GRANT SELECT ON ALL TABLES IN SCHEMA flights TO service_role, authenticated;
RESET ROLE;
GRANT USAGE ON SCHEMA auth TO booking_app;
GRANT USAGE ON SCHEMA extensions TO booking_app;

CREATE PUBLICATION supabase_realtime FOR TABLE public.bookings, public.messages;
ALTER PUBLICATION supabase_realtime OWNER TO postgres;
CREATE POLICY "Members read their files" ON storage.objects FOR SELECT TO authenticated
  USING (bucket_id = 'documents' AND (storage.foldername(name))[1] = (SELECT auth.uid())::text);
