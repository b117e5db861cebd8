CREATE OR REPLACE FUNCTION acting_user() RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT nullif(current_setting('app.current_user_id', true), '')::uuid
$$;

-- policies of one table that read another would meet its policies: these see all rows
CREATE OR REPLACE FUNCTION is_channel_owner(p_channel_id uuid, p_user_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT EXISTS (SELECT FROM channels WHERE id = p_channel_id AND owner_id = p_user_id)
$$;
CREATE OR REPLACE FUNCTION is_channel_moderator(p_channel_id uuid, p_user_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT EXISTS (SELECT FROM channel_moderators WHERE channel_id = p_channel_id AND user_id = p_user_id)
$$;
CREATE OR REPLACE FUNCTION can_moderate_channel(p_channel_id uuid, p_user_id uuid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = public AS $$
    SELECT is_channel_owner(p_channel_id, p_user_id) OR is_channel_moderator(p_channel_id, p_user_id)
$$;
CREATE FUNCTION can_see_channel(p_channel_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT EXISTS (SELECT FROM channels WHERE id = p_channel_id AND is_public)
        OR can_moderate_channel(p_channel_id, acting_user())
$$;
CREATE FUNCTION can_see_post(p_post_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT EXISTS (
        SELECT FROM posts WHERE id = p_post_id AND (author_id = acting_user() OR can_see_channel(channel_id))
    )
$$;
CREATE FUNCTION can_moderate_post(p_post_id uuid) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public AS $$
    SELECT EXISTS (
        SELECT FROM posts
        WHERE id = p_post_id AND (author_id = acting_user() OR can_moderate_channel(channel_id, acting_user()))
    )
$$;

ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE channels ENABLE ROW LEVEL SECURITY;
ALTER TABLE channel_moderators ENABLE ROW LEVEL SECURITY;
ALTER TABLE posts ENABLE ROW LEVEL SECURITY;
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;

CREATE POLICY read ON users FOR SELECT USING (is_public OR id = acting_user());
CREATE POLICY add ON users FOR INSERT WITH CHECK (id = acting_user());
CREATE POLICY change ON users FOR UPDATE USING (id = acting_user()) WITH CHECK (id = acting_user());
CREATE POLICY remove ON users FOR DELETE USING (id = acting_user());

CREATE POLICY read ON channels FOR SELECT USING (is_public OR can_moderate_channel(id, acting_user()));
CREATE POLICY add ON channels FOR INSERT WITH CHECK (owner_id = acting_user());
CREATE POLICY change ON channels FOR UPDATE USING (owner_id = acting_user()) WITH CHECK (owner_id = acting_user());
CREATE POLICY remove ON channels FOR DELETE USING (owner_id = acting_user());

CREATE POLICY read ON channel_moderators FOR SELECT USING (can_see_channel(channel_id));
CREATE POLICY add ON channel_moderators FOR INSERT WITH CHECK (is_channel_owner(channel_id, acting_user()));
CREATE POLICY remove ON channel_moderators FOR DELETE
    USING (user_id = acting_user() OR is_channel_owner(channel_id, acting_user()));

CREATE POLICY read ON posts FOR SELECT USING (author_id = acting_user() OR can_see_channel(channel_id));
CREATE POLICY add ON posts FOR INSERT WITH CHECK (author_id = acting_user());
CREATE POLICY change ON posts FOR UPDATE
    USING (author_id = acting_user() OR can_moderate_channel(channel_id, acting_user()));
CREATE POLICY remove ON posts FOR DELETE
    USING (author_id = acting_user() OR can_moderate_channel(channel_id, acting_user()));

CREATE POLICY read ON comments FOR SELECT USING (author_id = acting_user() OR can_see_post(post_id));
CREATE POLICY add ON comments FOR INSERT WITH CHECK (author_id = acting_user() AND can_see_post(post_id));
CREATE POLICY change ON comments FOR UPDATE USING (author_id = acting_user() OR can_moderate_post(post_id));
CREATE POLICY remove ON comments FOR DELETE USING (author_id = acting_user() OR can_moderate_post(post_id));

CREATE INDEX IF NOT EXISTS idx_posts_channel_author ON posts (channel_id, author_id);
