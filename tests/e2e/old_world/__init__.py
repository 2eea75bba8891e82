"""The old world's database: a Supabase-shaped PostgreSQL 15 with a booking assistant's data and real flights.

python -m e2e.old_world build --cache DIR     make the COPY files once (deterministic, keyed by what makes them)
python -m e2e.old_world load --cache DIR --dsn 'host=/var/run/postgresql user=supabase_admin'
"""
