# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation shared by the pg_ modules."""

from __future__ import annotations


class ModuleDocFragment:
    """Shapes of source, target, include, exclude and rename."""

    DOCUMENTATION = r"""
options:
  source:
    description: The database to move from.
    required: true
    type: dict
    suboptions: &endpoint
      dsn:
        description: A libpq connection string or URI. Excludes C(host) and C(rest).
        type: str
      host:
        description: Name or address of the server.
        type: str
      port:
        description: TCP port.
        type: int
        default: 5432
      dbname:
        description: Name of the database.
        type: str
      user:
        description: Role to log in as.
        type: str
      password:
        description: Its password. Never logged, never put on a command line.
        type: str
      sslmode:
        description: As in libpq.
        type: str
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
        default: prefer
      sslrootcert:
        description: File with the certificate authorities to trust, on the machine where the module runs.
        type: path
      flavour:
        description: V(supabase) where the server has Supabase's own schemas and roles.
        type: str
        choices: [postgresql, supabase]
        default: postgresql
      rest:
        description:
          - For a source that offers nothing but the REST address of PostgREST, as Supabase's. Understood by M(cutover.hetzner.pg_row_copy) and
            M(cutover.hetzner.pg_row_verify) as O(source). The result never shows one moment of the source; see C(docs/rest.md).
          - With C(https) the certificate is checked against C(sslrootcert), or the machine's own authorities. C(http) beyond this machine needs
            C(sslmode=disable). Proxies of the environment are used.
        type: dict
        suboptions:
          url:
            description: Base address of the REST interface. With flavour V(supabase) the project's address is enough.
            type: str
            required: true
          key:
            description: A secret key (C(sb_secret_...)), or the legacy C(service_role) key. Never logged.
            type: str
            required: true
          unique:
            description: For tables without a primary key, C(schema.table) to a list of columns that are unique and never empty.
            type: dict
            default: {}
          page_rows:
            description: Rows asked for at a time. The server may send fewer; C(1000) at most on Supabase, unless its settings say otherwise.
            type: int
            default: 5000
  target:
    description: The database to move to.
    required: true
    type: dict
    suboptions: *endpoint
  include:
    description:
      - Patterns of tables to take, as C(schema.table), with C(*) and C(?).
      - Empty means every table outside the system's own schemas.
    type: list
    elements: str
    default: []
  exclude:
    description: Patterns of tables to leave out; wins over O(include).
    type: list
    elements: str
    default: []
  rename:
    description: Names that change on the way. Carried through schema, rows, verification and the way back.
    type: dict
    default: {}
    suboptions:
      schemas:
        description: Old schema to new schema.
        type: dict
        default: {}
      tables:
        description: C(schema.table) to a new table name (the schema stays, or follows O(rename.schemas)).
        type: dict
        default: {}
      columns:
        description: C(schema.table.column) to a new column name.
        type: dict
        default: {}
requirements:
  - psycopg >= 3.1 on the machine where the module runs
"""
