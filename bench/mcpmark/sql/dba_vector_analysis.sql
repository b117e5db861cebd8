CREATE TABLE vector_analysis_columns (
    schema varchar(50), table_name varchar(100), column_name varchar(100), dimensions integer, data_type varchar(50),
    has_constraints boolean, rows bigint
);
CREATE TABLE vector_analysis_storage_consumption (
    schema varchar(50), table_name varchar(100), total_size_bytes bigint, vector_data_bytes bigint,
    regular_data_bytes bigint, vector_storage_pct numeric(5,2), row_count bigint
);
CREATE TABLE vector_analysis_indices (
    schema varchar(50), table_name varchar(100), column_name varchar(100), index_name varchar(100),
    index_type varchar(50), index_size_bytes bigint
);

CREATE TEMP TABLE found AS
    SELECT n.nspname AS schema, t.relname AS name, t.oid AS relation, a.attname AS field, a.attnum AS place,
        a.atttypmod AS dimensions,
        a.attnotnull OR EXISTS (
            SELECT FROM pg_constraint c WHERE c.conrelid = t.oid AND a.attnum = ANY (c.conkey)
        ) AS is_constrained
    FROM pg_attribute a
    JOIN pg_class t ON t.oid = a.attrelid AND t.relkind IN ('r', 'p')
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE NOT a.attisdropped AND a.attnum > 0 AND a.atttypid = 'vector'::regtype;

DO $$
DECLARE
    one record;
    num_rows bigint;
    num_vector bigint;
    num_all bigint;
BEGIN
    FOR one IN SELECT * FROM found LOOP
        EXECUTE format('SELECT count(*), coalesce(sum(pg_column_size(%I)), 0), coalesce(sum(pg_column_size(t.*)), 0) '
            'FROM %I.%I t', one.field, one.schema, one.name) INTO num_rows, num_vector, num_all;
        INSERT INTO vector_analysis_columns VALUES (
            one.schema, one.name, one.field, one.dimensions, 'vector', one.is_constrained, num_rows);
        INSERT INTO vector_analysis_storage_consumption VALUES (
            one.schema, one.name, pg_total_relation_size(one.relation), num_vector, greatest(num_all - num_vector, 0),
            round(100.0 * num_vector / greatest(num_all, num_vector, 1), 2), num_rows);
    END LOOP;
END $$;

INSERT INTO vector_analysis_indices
    SELECT f.schema, f.name, f.field, i.relname, m.amname, pg_relation_size(i.oid)
    FROM found f
    JOIN pg_index x ON x.indrelid = f.relation AND f.place = ANY (x.indkey::int2[])
    JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_am m ON m.oid = i.relam
    WHERE m.amname IN ('hnsw', 'ivfflat');
