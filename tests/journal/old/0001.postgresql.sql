CREATE TABLE meta (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_meta PRIMARY KEY (name)
);

CREATE TABLE enrollment (
    id TEXT NOT NULL,
    environment TEXT NOT NULL,
    channel TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    customer_name TEXT,
    method TEXT NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE,
    owner TEXT,
    tries INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    replaces TEXT,
    transfer_hash TEXT,
    valid_until TIMESTAMP WITH TIME ZONE,
    key_id BYTEA NOT NULL,
    key_label TEXT NOT NULL,
    token TEXT,
    public_key BYTEA,
    custody JSON,
    csr TEXT,
    sent_at TIMESTAMP WITH TIME ZONE,
    retrieval_id TEXT,
    certificate TEXT,
    chain TEXT,
    serial_number TEXT,
    not_before TIMESTAMP WITH TIME ZONE,
    not_after TIMESTAMP WITH TIME ZONE,
    vault_path TEXT,
    vault_version INTEGER,
    problem JSON,
    CONSTRAINT pk_enrollment PRIMARY KEY (id),
    CONSTRAINT uq_enrollment_transfer UNIQUE (environment, transfer_hash),
    CONSTRAINT uq_enrollment_key_id UNIQUE (key_id)
);

CREATE INDEX ix_enrollment_state ON enrollment (state, id);

CREATE INDEX ix_enrollment_customer ON enrollment (environment, customer_id, channel);

CREATE INDEX ix_enrollment_token ON enrollment (token);

CREATE INDEX ix_enrollment_due ON enrollment (due_at) WHERE due_at IS NOT NULL;

COMMENT ON COLUMN enrollment.token IS 'hash of the identity of the token that holds the key';

CREATE TABLE probe (
    id BIGSERIAL NOT NULL,
    token TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    fit BOOLEAN NOT NULL,
    result JSON NOT NULL,
    CONSTRAINT pk_probe PRIMARY KEY (id)
);

CREATE INDEX ix_probe_token ON probe (token);

COMMENT ON COLUMN probe.token IS 'hash of the token''s identity';

CREATE TABLE event (
    id BIGSERIAL NOT NULL,
    enrollment_id TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    actor TEXT NOT NULL,
    step TEXT NOT NULL,
    source TEXT,
    target TEXT NOT NULL,
    detail JSON NOT NULL,
    CONSTRAINT pk_event PRIMARY KEY (id),
    CONSTRAINT fk_event_enrollment_id FOREIGN KEY(enrollment_id) REFERENCES enrollment (id)
);

CREATE INDEX ix_event_enrollment_id ON event (enrollment_id);

CREATE TABLE answer (
    id BIGSERIAL NOT NULL,
    enrollment_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    http_status INTEGER NOT NULL,
    body BYTEA NOT NULL,
    verdict TEXT,
    CONSTRAINT pk_answer PRIMARY KEY (id),
    CONSTRAINT fk_answer_enrollment_id FOREIGN KEY(enrollment_id) REFERENCES enrollment (id)
);

CREATE INDEX ix_answer_enrollment_id ON answer (enrollment_id);

COMMENT ON COLUMN answer.body IS 'zlib-compressed';
