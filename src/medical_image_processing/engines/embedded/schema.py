"""The tables, as a list of migrations. A file's version is SQLite's ``user_version``.

Append to MIGRATIONS; never edit one that has been released.
"""

from __future__ import annotations

import sqlite3

from medical_image_processing.errors import Conflict

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE algorithms (
        algo_id TEXT PRIMARY KEY,
        status TEXT NOT NULL,
        revision INTEGER NOT NULL,
        record TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX algorithms_by_status ON algorithms (status, algo_id);

    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL UNIQUE,
        algo_id TEXT NOT NULL,
        client_id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        message_id TEXT NOT NULL,
        body TEXT NOT NULL,
        status TEXT NOT NULL,
        created_at REAL NOT NULL,
        started_at REAL,
        finished_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0,
        progress REAL,
        error TEXT,
        result TEXT,
        finish_seq INTEGER,
        seen INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX jobs_by_client ON jobs (client_id, seq);
    CREATE INDEX jobs_by_algorithm ON jobs (algo_id, status, seq);
    CREATE INDEX jobs_by_status ON jobs (status, seq);
    CREATE INDEX jobs_unseen ON jobs (client_id, finish_seq) WHERE seen = 0 AND finish_seq IS NOT NULL;
    CREATE INDEX jobs_by_finish ON jobs (finish_seq) WHERE finish_seq IS NOT NULL;

    CREATE TABLE queues (
        queue_id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        redrive_to TEXT,
        max_receives INTEGER,
        visibility_s REAL NOT NULL,
        created_at REAL NOT NULL,
        depth INTEGER NOT NULL DEFAULT 0
    );
    -- in_flight: received and leased until visible_at. is_head: the oldest of its group, and none of the others
    -- is in flight. settled: NULL until it becomes a dead letter, then 0 until somebody has answered for it.
    CREATE TABLE messages (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        queue_id INTEGER NOT NULL REFERENCES queues ON DELETE CASCADE,
        message_id TEXT NOT NULL,
        group_id TEXT NOT NULL,
        dedup_id TEXT NOT NULL,
        body TEXT NOT NULL,
        attributes TEXT,
        sent_at REAL NOT NULL,
        first_received_at REAL,
        receive_count INTEGER NOT NULL DEFAULT 0,
        is_head INTEGER NOT NULL,
        in_flight INTEGER NOT NULL DEFAULT 0,
        visible_at REAL NOT NULL DEFAULT 0,
        receipt TEXT,
        receiver TEXT,
        sender TEXT,
        settled INTEGER
    );
    CREATE INDEX messages_ready ON messages (queue_id, seq) WHERE is_head = 1 AND in_flight = 0;
    CREATE INDEX messages_in_flight ON messages (queue_id, visible_at) WHERE in_flight = 1;
    CREATE INDEX messages_by_group ON messages (queue_id, group_id, seq);
    CREATE INDEX messages_by_receiver ON messages (receiver) WHERE in_flight = 1 AND receiver IS NOT NULL;
    CREATE INDEX messages_dead ON messages (message_id) WHERE settled = 0;
    CREATE TABLE deduplication (
        queue_id INTEGER NOT NULL REFERENCES queues ON DELETE CASCADE,
        dedup_id TEXT NOT NULL,
        message_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (queue_id, dedup_id)
    ) WITHOUT ROWID;
    CREATE INDEX deduplication_by_expiry ON deduplication (expires_at);

    -- What the provisioner makes beside the queues: the embedded engine's IAM roles, log groups,
    -- task definitions and services.
    CREATE TABLE resources (
        algo_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        content TEXT NOT NULL,
        PRIMARY KEY (algo_id, kind, name)
    ) WITHOUT ROWID;

    CREATE TABLE keys (
        digest TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        client_ids TEXT NOT NULL,
        created_at REAL NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        details TEXT
    );
    CREATE INDEX audit_by_subject ON audit (subject, seq);
    """,
    """
    -- How many messages the job has had since it was accepted or replayed: more than one when one was lost.
    ALTER TABLE jobs ADD COLUMN sends INTEGER NOT NULL DEFAULT 1;
    """,
    """
    -- client_ids that /provision made for the holder, apart from those an operator gave.
    ALTER TABLE keys ADD COLUMN granted TEXT NOT NULL DEFAULT '[]';
    """,
    """
    -- store: whether results go back into the PACS. stored: NULL until there are some, then pending, done or
    -- failed; store_at: when a pending one is tried next.
    ALTER TABLE jobs ADD COLUMN store INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN stored TEXT;
    ALTER TABLE jobs ADD COLUMN store_at REAL;
    ALTER TABLE jobs ADD COLUMN store_attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN store_error TEXT;
    CREATE INDEX jobs_to_store ON jobs (store_at) WHERE stored = 'pending';
    -- Who read what: by job and by algorithm, newest first.
    CREATE INDEX audit_reads_by_job ON audit (json_extract(details, '$.job_id'), seq) WHERE action = 'read';
    CREATE INDEX audit_reads_by_actor ON audit (actor, seq) WHERE action = 'read';
    """,
    """
    -- What stands for a UID or a PACS id in what de-identifying algorithms get.
    CREATE TABLE pseudonyms (pseudonym TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    -- send_to: the node that the results are sent to. sent: NULL until the job has ended, then as stored.
    ALTER TABLE jobs ADD COLUMN send_to TEXT;
    ALTER TABLE jobs ADD COLUMN sent TEXT;
    ALTER TABLE jobs ADD COLUMN send_at REAL;
    ALTER TABLE jobs ADD COLUMN send_attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN send_error TEXT;
    CREATE INDEX jobs_to_send ON jobs (send_at) WHERE sent = 'pending';
    -- Images that a node sent, and that no job is for yet.
    CREATE TABLE arrivals (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        node TEXT NOT NULL,
        algo_id TEXT NOT NULL,
        study_uid TEXT NOT NULL,
        series_uid TEXT NOT NULL,
        sop_uid TEXT NOT NULL
    );
    CREATE INDEX arrivals_by_series ON arrivals (node, algo_id, study_uid, series_uid, seq);
    """,
    """
    -- An algorithm's ends by time, with all that its statistics need.
    CREATE INDEX jobs_ended ON jobs (algo_id, finished_at, status, started_at) WHERE finish_seq IS NOT NULL;
    """,
    """
    -- sent_pacs: what the owner of a job asked for, where its message has pseudonyms. Of jobs that are older
    -- nobody knows for sure: 'null'.
    ALTER TABLE jobs ADD COLUMN sent_pacs TEXT;
    UPDATE jobs SET sent_pacs = 'null'
        WHERE json_extract(body, '$.pacs.study_id') IN (SELECT pseudonym FROM pseudonyms);
    """,
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest version; refuse one made by a newer platform."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise Conflict(
            "DATABASE_TOO_NEW",
            f"the database has version {version}, this platform knows {len(MIGRATIONS)}; run the newer platform",
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
